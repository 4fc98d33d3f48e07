/* mosaic: maps of tiles (files of the mount `maps`, as `change` writes them) become one picture, a PNG in the mount
 * `picture`, and a table of areas on stdout: `what,pixels,hectares`. A pixel is 30 m wide: 0.09 ha.
 *
 * Tiles may come in any order, are as large as the first one and cover the same years; where one is missing, nothing is
 * known. Colours: grey not known, sand not forest, green forest, from yellow to dark red what was lost, by year. */
#include "pgm.h"
#include "png.h"

enum { TILES_MAX = 1024, UNKNOWN = 0, NOT_FOREST = 1, FOREST = 2, CLASSES = 256 };

static struct image tiles[TILES_MAX];

static void colours(struct colour *palette, uint32_t years) {
    palette[UNKNOWN] = (struct colour){190, 190, 190};
    palette[NOT_FOREST] = (struct colour){236, 226, 198};
    palette[FOREST] = (struct colour){38, 112, 62};
    for (uint32_t n = 1; n < years; n++) {
        uint32_t part = years > 2 ? (n - 1) * 256 / (years - 2) : 0;
        palette[FOREST + n] = (struct colour){(uint8_t)(255 - part * 135 / 256), (uint8_t)(215 - part * 215 / 256),
                                              (uint8_t)(part * 40 / 256)};
    }
}

static void row(const char *what, uint32_t pixels) {
    uint64_t hundredths = (uint64_t)pixels * 9;
    printf("%s,%u,%llu.%02llu\n", what, pixels, (unsigned long long)(hundredths / 100),
           (unsigned long long)(hundredths % 100));
}

int main(void) {
    uint32_t count = 0, left = UINT32_MAX, top = UINT32_MAX, right = 0, bottom = 0;
    struct bytes file;
    for (; count < TILES_MAX && read_mount("maps", count, &file); count++) {
        struct image *tile = &tiles[count];
        if (!next_image(&file, tile) || tile->max != 255) die(EXIT_INPUT, "not a map of `change`", "");
        if (tile->width != tiles->width || tile->height != tiles->height || tile->year != tiles->year
            || tile->year_last != tiles->year_last || tile->year_last < tile->year
            || tile->year_last - tile->year >= 64) {
            die(EXIT_INPUT, "tiles of different sizes or years", "");
        }
        if (tile->tile_x < left) left = tile->tile_x;
        if (tile->tile_y < top) top = tile->tile_y;
        if (tile->tile_x > right) right = tile->tile_x;
        if (tile->tile_y > bottom) bottom = tile->tile_y;
    }
    if (!count) die(EXIT_INPUT, "no maps", "");
    if (right - left >= SIDE_MAX / tiles->width || bottom - top >= SIDE_MAX / tiles->height) {
        die(EXIT_INPUT, "the tiles are too far apart for one picture", "");
    }

    uint32_t width = (right - left + 1) * tiles->width, height = (bottom - top + 1) * tiles->height;
    uint32_t years = tiles->year_last - tiles->year + 1, pixels[CLASSES] = {0};
    unsigned char *map = calloc(width, height);
    if (!map) die(EXIT_MEMORY, "out of memory", "");
    for (uint32_t t = 0; t < count; t++) {
        for (uint32_t y = 0; y < tiles->height; y++) {
            size_t at = (size_t)((tiles[t].tile_y - top) * tiles->height + y) * width
                + (size_t)(tiles[t].tile_x - left) * tiles->width;
            memcpy(map + at, tiles[t].samples + (size_t)y * tiles->width, tiles->width);
        }
    }
    for (size_t i = 0; i < (size_t)width * height; i++) {
        if (map[i] >= FOREST + years) die(EXIT_INPUT, "a pixel of a class that there is not", "");
        pixels[map[i]]++;
    }

    printf("what,pixels,hectares\n");
    row("not known", pixels[UNKNOWN]);
    row("not forest", pixels[NOT_FOREST]);
    row("forest", pixels[FOREST]);
    for (uint32_t n = 1; n < years; n++) {
        char what[24];
        snprintf(what, sizeof what, "lost in %u", tiles->year + n);
        row(what, pixels[FOREST + n]);
    }
    finish(stdout);
    struct colour palette[CLASSES] = {0};
    colours(palette, years);
    FILE *picture = open_output("picture");
    write_png(picture, map, width, height, palette, FOREST + years);
    finish(picture);
    return 0;
}
