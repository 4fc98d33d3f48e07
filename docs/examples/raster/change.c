/* change: a series of satellite images of one tile on stdin, a map of what became of its forest on stdout.
 *
 * For each pixel and year: NDVI = (near infrared - red) / (near infrared + red), in thousandths; years under a cloud (both
 * bands 0) say nothing. The pixel lost its forest in the year before which the mean was a forest's and from which on it is
 * not, where the two differ the most. The map is an image of one byte for each pixel:
 *   0 not known: seen in less than two years
 *   1 not forest
 *   2 forest
 *   2 + n  forest that was lost n years after the series begins */
#include "pgm.h"

enum { YEARS_MAX = 64, UNKNOWN = 0, NOT_FOREST = 1, FOREST = 2 };
enum { FOREST_NDVI = 600, CLEARED_NDVI = 450, CLOUD = INT32_MIN };

static struct image red[YEARS_MAX], infrared[YEARS_MAX];

static int32_t ndvi(size_t year, size_t i) {
    int32_t r = (int32_t)sample(&red[year], i), n = (int32_t)sample(&infrared[year], i);
    return r + n ? (n - r) * 1000 / (n + r) : CLOUD;
}

static int class_of(const int32_t *series, size_t years) {
    int32_t sums[YEARS_MAX + 1] = {0}, seen[YEARS_MAX + 1] = {0}, most = 0;
    for (size_t y = 0; y < years; y++) {
        sums[y + 1] = sums[y] + (series[y] == CLOUD ? 0 : series[y]);
        seen[y + 1] = seen[y] + (series[y] != CLOUD);
    }
    if (seen[years] < 2) return UNKNOWN;
    int class = sums[years] / seen[years] >= FOREST_NDVI ? FOREST : NOT_FOREST;
    for (size_t y = 1; y < years; y++) {
        if (series[y] == CLOUD || !seen[y]) continue;
        int32_t before = sums[y] / seen[y], after = (sums[years] - sums[y]) / (seen[years] - seen[y]);
        if (before >= FOREST_NDVI && after <= CLEARED_NDVI && before - after > most) {
            most = before - after;
            class = FOREST + (int)y;
        }
    }
    return class;
}

int main(void) {
    struct bytes in = read_all(stdin);
    struct image image;
    size_t years = 0;
    while (next_image(&in, &image)) {
        int is_red = !strcmp(image.band, "red");
        if (!is_red && strcmp(image.band, "nir")) die(EXIT_INPUT, "neither the red nor the nir band", image.band);
        if (is_red) {
            if (years == YEARS_MAX) die(EXIT_INPUT, "too many years", "");
            if (years && image.year != red[0].year + years) die(EXIT_INPUT, "years do not follow one another", "");
            red[years++] = image;
        } else {
            if (!years || infrared[years - 1].samples || image.year != red[years - 1].year) {
                die(EXIT_INPUT, "each year must have its red band and then its nir band", "");
            }
            infrared[years - 1] = image;
        }
        if (image.width != red[0].width || image.height != red[0].height || image.tile_x != red[0].tile_x
            || image.tile_y != red[0].tile_y) {
            die(EXIT_INPUT, "images of different tiles", "");
        }
    }
    if (!years || !infrared[years - 1].samples) die(EXIT_INPUT, "a year lacks its nir band", "");

    printf("P5\n# tile %u %u\n# year %u %u\n%u %u\n255\n", red[0].tile_x, red[0].tile_y, red[0].year,
           red[years - 1].year, red[0].width, red[0].height);
    for (size_t i = 0; i < (size_t)red[0].width * red[0].height; i++) {
        int32_t series[YEARS_MAX];
        for (size_t y = 0; y < years; y++) series[y] = ndvi(y, i);
        putchar(class_of(series, years));
    }
    finish(stdout);
    return 0;
}
