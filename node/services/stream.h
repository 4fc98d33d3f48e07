/* What the bundled services share: buffered bytes in and out over WASI, a table of words, and how they fail.
 *
 * Exit codes: 1 = reading or writing failed, 2 = the input or an argument is not what it should be, 3 = out of memory.
 * Input is streamed; what is kept is one word at most and, where words are counted, one entry for each different word. */
#ifndef STREAM_H
#define STREAM_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_IO = 1, EXIT_INPUT = 2, EXIT_MEMORY = 3, BUFFER = 65536 };

static void die(int code, const char *why) {
    /* Nothing better is left to do when this write fails. */
    (void)!write(2, why, strlen(why));
    (void)!write(2, "\n", 1);
    _exit(code);
}

static unsigned char in_buffer[BUFFER], out_buffer[BUFFER];
static size_t in_at, in_len, out_len;

/* The next byte of stdin, or -1 at its end. */
static int get(void) {
    if (in_at == in_len) {
        ssize_t n;
        do {
            n = read(0, in_buffer, BUFFER);
        } while (n < 0 && errno == EINTR);
        if (n < 0) die(EXIT_IO, "cannot read the input");
        if (n == 0) return -1;
        in_at = 0;
        in_len = (size_t)n;
    }
    return in_buffer[in_at++];
}

static void flush(void) {
    size_t at = 0;
    while (at < out_len) {
        ssize_t n = write(1, out_buffer + at, out_len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) die(EXIT_IO, "cannot write the output");
        at += (size_t)n;
    }
    out_len = 0;
}

static void put(unsigned char byte) {
    if (out_len == BUFFER) flush();
    out_buffer[out_len++] = byte;
}

#ifdef STREAM_WORDS

static void put_bytes(const unsigned char *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) put(bytes[i]);
}

static void put_number(uint64_t n) {
    unsigned char digits[20];
    size_t len = 0;
    do {
        digits[len++] = (unsigned char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (len) put(digits[--len]);
}

/* A buffer that grows by doubling: one line or word. */
struct bytes {
    unsigned char *at;
    size_t len, size;
};

static void append(struct bytes *b, unsigned char byte) {
    if (b->len == b->size) {
        size_t size = b->size ? b->size * 2 : 256;
        if (size <= b->size) die(EXIT_MEMORY, "a word is too long");
        unsigned char *at = realloc(b->at, size);
        if (!at) die(EXIT_MEMORY, "out of memory: a word is too long");
        b->at = at;
        b->size = size;
    }
    b->at[b->len++] = byte;
}

/* Counts by word: open addressing over entries that own their words. */
struct entry {
    uint64_t count;
    size_t len;
    unsigned char word[];
};

static struct entry **slots;
static size_t slots_size, words;

/* FNV-1a. Colliding inputs can be made and cost their maker's own time limit. */
static uint64_t hash_of(const unsigned char *word, size_t len) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < len; i++) h = (h ^ word[i]) * 1099511628211u;
    return h;
}

static struct entry **slot_of(const unsigned char *word, size_t len) {
    size_t i = (size_t)hash_of(word, len) & (slots_size - 1);
    while (slots[i] && (slots[i]->len != len || memcmp(slots[i]->word, word, len))) {
        i = (i + 1) & (slots_size - 1);
    }
    return &slots[i];
}

static void grow(void) {
    struct entry **old = slots;
    size_t old_size = slots_size;
    slots_size = old_size ? old_size * 2 : 1024;
    slots = calloc(slots_size, sizeof *slots);
    if (!slots) die(EXIT_MEMORY, "out of memory: too many different words");
    for (size_t i = 0; i < old_size; i++) {
        if (old[i]) *slot_of(old[i]->word, old[i]->len) = old[i];
    }
    free(old);
}

static void add(const unsigned char *word, size_t len, uint64_t count) {
    if (words * 4 >= slots_size * 3) grow();
    struct entry **slot = slot_of(word, len);
    if (!*slot) {
        struct entry *fresh = malloc(sizeof *fresh + len);
        if (!fresh) die(EXIT_MEMORY, "out of memory: too many different words");
        fresh->count = 0;
        fresh->len = len;
        memcpy(fresh->word, word, len);
        *slot = fresh;
        words++;
    }
    if ((*slot)->count > UINT64_MAX - count) die(EXIT_INPUT, "a count passes 2^64");
    (*slot)->count += count;
}

/* By bytes, a prefix first: the same order everywhere. */
static int by_word(const void *left, const void *right) {
    const struct entry *a = *(struct entry *const *)left, *b = *(struct entry *const *)right;
    size_t len = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->word, b->word, len);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

/* Packs and sorts the entries; the table is not to be used as one any more. */
static void sort(int (*order)(const void *, const void *)) {
    size_t n = 0;
    for (size_t i = 0; i < slots_size; i++) {
        if (slots[i]) slots[n++] = slots[i];
    }
    if (n) qsort(slots, n, sizeof *slots, order);
}

/* Writes the first `top` entries as `count<TAB>word`. */
static void put_entries(uint64_t top) {
    for (size_t i = 0; i < words && i < top; i++) {
        put_number(slots[i]->count);
        put('\t');
        put_bytes(slots[i]->word, slots[i]->len);
        put('\n');
    }
    flush();
}

#endif
#endif
