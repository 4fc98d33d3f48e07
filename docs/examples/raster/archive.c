/* archive: what a keeper of satellite images hands out for one tile, here made up: a landscape in which forest is cleared.
 *
 * `archive X Y` writes the tile of 128 by 128 pixels at column X and row Y, always the same: for each year from 2018 to 2023
 * the red and the near infrared band, surface reflectance in ten-thousandths, 0 where a cloud was. Tiles continue one
 * another. Inside: rivers and clearings that were there before; a road from which side roads eat into the forest, further
 * each year; a fire in 2021. */
#include "../ports.h"

enum { TILE = 128, FIRST = 2018, LAST = 2023, TILES_MAX = 1000 };

static uint32_t hash(uint32_t x, uint32_t y, uint32_t what) {
    uint32_t h = x * 0x9E3779B1u ^ y * 0x85EBCA77u ^ what * 0xC2B2AE3Du;
    h = (h ^ h >> 15) * 0x2C1B3C6Du;
    h = (h ^ h >> 12) * 0x297A2D39u;
    return h ^ h >> 15;
}

/* Smooth noise, 0 to 255, with hills about `size` pixels wide. */
static uint32_t hills(uint32_t x, uint32_t y, uint32_t size, uint32_t what) {
    uint32_t cx = x / size, cy = y / size, fx = x % size, fy = y % size;
    uint32_t top = (hash(cx, cy, what) & 255) * (size - fx) + (hash(cx + 1, cy, what) & 255) * fx;
    uint32_t bottom = (hash(cx, cy + 1, what) & 255) * (size - fx) + (hash(cx + 1, cy + 1, what) & 255) * fx;
    return (top * (size - fy) + bottom * fy) / (size * size);
}

static uint32_t apart(uint32_t a, uint32_t b) { return a > b ? a - b : b - a; }

enum cover { WATER, OPEN, FOREST };

/* What is there in the year after FIRST by `age`. */
static enum cover cover(uint32_t x, uint32_t y, uint32_t age) {
    uint32_t land = (2 * hills(x, y, 96, 1) + hills(x, y, 24, 2)) / 3;
    if (apart(land, 112) < 2) return WATER;
    if (land < 78) return OPEN;
    /* The road runs from top to bottom; every 26 pixels a side road with plots of 10 pixels, the farther the later. */
    uint32_t road = 150 + hills(0, y, 64, 3) / 8, far = apart(x, road);
    if (far < 2) return OPEN;
    uint32_t side = y / 26, plot = x / 10, from_side = apart(y % 26, 13);
    uint32_t cleared = far / 24 + hash(plot, side, 4) % 3;
    if (from_side < 3 + hash(plot, side, 5) % 7 && far < 20 + hash(side, 0, 6) % 130 && cleared <= age) return OPEN;
    uint32_t dx = apart(x, 310), dy = apart(y, 70);
    if (age >= 3 && dx * dx + 2 * dy * dy < 900 + 8 * hills(x, y, 12, 7)) return OPEN;
    return FOREST;
}

static int cloud(uint32_t x, uint32_t y, uint32_t age) {
    return (3 * hills(x, y, 48, 100 + age) + hills(x, y, 10, 200 + age)) / 4 > 176;
}

static void put_sample(uint32_t value) {
    putchar((int)(value >> 8));
    putchar((int)(value & 255));
}

int main(int argc, char **argv) {
    static const uint32_t red[] = {[WATER] = 350, [OPEN] = 1250, [FOREST] = 320};
    static const uint32_t infrared[] = {[WATER] = 180, [OPEN] = 2350, [FOREST] = 3200};
    if (argc != 3 || number(argv[1]) >= TILES_MAX || number(argv[2]) >= TILES_MAX) {
        die(EXIT_INPUT, "usage: archive X Y, each less than 1000", "");
    }
    uint32_t tile_x = number(argv[1]), tile_y = number(argv[2]);
    for (uint32_t age = 0; age <= LAST - FIRST; age++) {
        for (uint32_t band = 0; band < 2; band++) {
            printf("P5\n# tile %u %u\n# year %u\n# band %s\n%d %d\n65535\n", tile_x, tile_y, FIRST + age,
                   band ? "nir" : "red", TILE, TILE);
            for (uint32_t i = 0; i < TILE * TILE; i++) {
                uint32_t x = tile_x * TILE + i % TILE, y = tile_y * TILE + i / TILE;
                uint32_t usual = (band ? infrared : red)[cover(x, y, age)];
                uint32_t noise = hash(x, y, 1000 + 2 * age + band) % (usual / 4 + 1);
                put_sample(cloud(x, y, age) ? 0 : usual - usual / 8 + noise);
            }
        }
    }
    finish(stdout);
    return 0;
}
