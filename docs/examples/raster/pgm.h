/* Netpbm greymaps (P5) that say in comments what they show: `# tile X Y`, `# year N`, `# band NAME`. Several may follow one
 * another in a stream, as the format allows; samples above 255 are two bytes, the higher first. */
#ifndef PGM_H
#define PGM_H

#include "../ports.h"

enum { SIDE_MAX = 4096 };

struct image {
    uint32_t width, height, max, tile_x, tile_y, year, year_last;
    char band[8];
    const unsigned char *samples;
};

static inline uint32_t sample(const struct image *image, size_t i) {
    return image->max > 255 ? (uint32_t)(image->samples[2 * i] << 8 | image->samples[2 * i + 1]) : image->samples[i];
}

/* The number at `*at`, behind spaces; `*at` moves behind it. None is 0. */
static inline uint32_t small_number(const char **at) {
    uint32_t n = 0;
    *at += strspn(*at, " ");
    for (; **at >= '0' && **at <= '9' && n < 1000000; ++*at) n = n * 10 + (uint32_t)(**at - '0');
    return n;
}

static inline void read_comment(const char *text, struct image *image) {
    if (!strncmp(text, "# tile ", 7)) {
        text += 7;
        image->tile_x = small_number(&text);
        image->tile_y = small_number(&text);
    } else if (!strncmp(text, "# year ", 7)) {
        text += 7;
        image->year = small_number(&text);
        image->year_last = small_number(&text);
    } else if (!strncmp(text, "# band ", 7)) {
        size_t len = strcspn(text + 7, "\n");
        if (len < sizeof image->band) memcpy(image->band, text + 7, len);
    }
}

/* The next number of a header; what the comments before it say is kept. */
static inline uint32_t header_number(struct bytes *in, struct image *image) {
    for (;;) {
        while (in->len && *in->at && strchr(" \t\r\n", *in->at)) in->at++, in->len--;
        if (!in->len || *in->at != '#') break;
        read_comment((const char *)in->at, image);
        while (in->len && *in->at != '\n') in->at++, in->len--;
    }
    const char *at = (const char *)in->at;
    uint32_t n = small_number(&at);
    size_t digits = (size_t)(at - (const char *)in->at);
    if (!digits) die(EXIT_INPUT, "not the header of a P5 image", "");
    in->at += digits, in->len -= digits;
    return n;
}

/* Takes the next image off `in`; 0 at its end. */
static inline int next_image(struct bytes *in, struct image *image) {
    if (!in->len) return 0;
    *image = (struct image){0};
    if (in->len < 2 || memcmp(in->at, "P5", 2)) die(EXIT_INPUT, "not a P5 image", "");
    in->at += 2, in->len -= 2;
    image->width = header_number(in, image);
    image->height = header_number(in, image);
    image->max = header_number(in, image);
    if (!image->width || !image->height || image->width > SIDE_MAX || image->height > SIDE_MAX || !image->max
        || image->max > 65535) {
        die(EXIT_INPUT, "an image is too large, or empty", "");
    }
    size_t len = (size_t)image->width * image->height * (image->max > 255 ? 2 : 1);
    if (in->len < len + 1) die(EXIT_INPUT, "an image ends too early", "");
    image->samples = in->at + 1;
    in->at += len + 1, in->len -= len + 1;
    return 1;
}

#endif
