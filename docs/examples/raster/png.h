/* A PNG encoder for maps: one byte for each pixel, colours from a palette, compressed by Deflate's fixed codes (RFC 1951,
 * section 3.2.6) with matches of two distances only, one pixel to the left and one row up. In a map those are what there is. */
#ifndef PNG_H
#define PNG_H

#include "../ports.h"

struct colour {
    uint8_t red, green, blue;
};

struct sink {
    unsigned char *at;
    size_t len, room;
    uint32_t bits, bits_count;
};

static inline void put_byte(struct sink *s, uint32_t byte) {
    s->at = grow(s->at, s->len, &s->room, 1);
    s->at[s->len++] = (unsigned char)byte;
}

static inline void put_word(struct sink *s, uint32_t word) {
    for (int shift = 24; shift >= 0; shift -= 8) put_byte(s, word >> shift & 255);
}

/* Deflate's numbers: the lowest bit first. */
static inline void put_bits(struct sink *s, uint32_t value, uint32_t count) {
    s->bits |= value << s->bits_count;
    for (s->bits_count += count; s->bits_count >= 8; s->bits_count -= 8, s->bits >>= 8) put_byte(s, s->bits & 255);
}

/* Deflate's codes: the highest bit first. */
static inline void put_code(struct sink *s, uint32_t code, uint32_t count) {
    while (count) put_bits(s, code >> --count & 1, 1);
}

/* A literal, the end of the block (256) or a length, by the fixed code. */
static inline void put_symbol(struct sink *s, uint32_t symbol) {
    if (symbol < 144) put_code(s, 0x30 + symbol, 8);
    else if (symbol < 256) put_code(s, 0x190 + symbol - 144, 9);
    else if (symbol < 280) put_code(s, symbol - 256, 7);
    else put_code(s, 0xC0 + symbol - 280, 8);
}

/* Symbols of lengths and of distances grow by the same rule: after each `per` of them there is one more extra bit. */
static inline uint32_t scale(uint32_t value, uint32_t per, uint32_t *extra, uint32_t *extra_bits) {
    uint32_t symbol = 0, base = 0, bits = 0;
    for (;; symbol++) {
        bits = symbol < 2 * per ? 0 : symbol / per - 1;
        if (value < base + (1u << bits)) break;
        base += 1u << bits;
    }
    *extra = value - base;
    *extra_bits = bits;
    return symbol;
}

static inline void put_match(struct sink *s, uint32_t len, uint32_t distance) {
    uint32_t extra, bits;
    if (len == 258) {
        put_symbol(s, 285);
    } else {
        put_symbol(s, 257 + scale(len - 3, 4, &extra, &bits));
        put_bits(s, extra, bits);
    }
    put_code(s, scale(distance - 1, 2, &extra, &bits), 5);
    put_bits(s, extra, bits);
}

static inline uint32_t match(const unsigned char *bytes, size_t at, size_t len, size_t distance) {
    uint32_t n = 0;
    if (distance > at) return 0;
    while (n < 258 && at + n < len && bytes[at + n] == bytes[at + n - distance]) n++;
    return n;
}

static inline void put_zlib(struct sink *s, const unsigned char *bytes, size_t len, uint32_t row) {
    put_byte(s, 0x78);
    put_byte(s, 0x01);
    put_bits(s, 1, 1); /* the last block */
    put_bits(s, 1, 2); /* fixed codes */
    for (size_t i = 0; i < len;) {
        uint32_t left = match(bytes, i, len, 1), up = match(bytes, i, len, row);
        uint32_t best = left > up ? left : up;
        if (best >= 4) {
            put_match(s, best, left > up ? 1 : row);
            i += best;
        } else {
            put_symbol(s, bytes[i++]);
        }
    }
    put_symbol(s, 256);
    put_bits(s, 0, 7);
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < len; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    put_word(s, b << 16 | a);
}

static inline uint32_t crc(const unsigned char *bytes, size_t len) {
    uint32_t c = UINT32_MAX;
    for (size_t i = 0; i < len; i++) {
        c ^= bytes[i];
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
    }
    return ~c;
}

/* Ends the chunk that begins at `start`: its length, and its checksum over type and contents. */
static inline void end_chunk(struct sink *s, size_t start) {
    uint32_t len = (uint32_t)(s->len - start - 8);
    for (int i = 0; i < 4; i++) s->at[start + i] = (unsigned char)(len >> (24 - 8 * i));
    put_word(s, crc(s->at + start + 4, s->len - start - 4));
}

static inline size_t begin_chunk(struct sink *s, const char *type) {
    size_t start = s->len;
    put_word(s, 0);
    for (int i = 0; i < 4; i++) put_byte(s, (unsigned char)type[i]);
    return start;
}

static inline void write_png(FILE *out, const unsigned char *map, uint32_t width, uint32_t height,
                             const struct colour *palette, uint32_t colours) {
    struct sink s = {0}, rows = {0};
    static const unsigned char signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    for (size_t i = 0; i < sizeof signature; i++) put_byte(&s, signature[i]);

    size_t chunk = begin_chunk(&s, "IHDR");
    put_word(&s, width);
    put_word(&s, height);
    static const unsigned char format[] = {8, 3, 0, 0, 0}; /* 8 bits, palette, Deflate, no filters, not interlaced */
    for (size_t i = 0; i < sizeof format; i++) put_byte(&s, format[i]);
    end_chunk(&s, chunk);

    chunk = begin_chunk(&s, "PLTE");
    for (uint32_t i = 0; i < colours; i++) {
        put_byte(&s, palette[i].red);
        put_byte(&s, palette[i].green);
        put_byte(&s, palette[i].blue);
    }
    end_chunk(&s, chunk);

    for (uint32_t y = 0; y < height; y++) {
        put_byte(&rows, 0); /* the filter of the row: none */
        for (uint32_t x = 0; x < width; x++) put_byte(&rows, map[(size_t)y * width + x]);
    }
    chunk = begin_chunk(&s, "IDAT");
    put_zlib(&s, rows.at, rows.len, width + 1);
    end_chunk(&s, chunk);
    end_chunk(&s, begin_chunk(&s, "IEND"));
    fwrite(s.at, 1, s.len, out);
}

#endif
