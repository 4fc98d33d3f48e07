/* What the programs of the examples share: inputs read whole, output mounts, tables that grow, numbers, and how they fail.
 *
 * An input mount is a directory of files 0000, 0001, ... in the order of the workflow's edges; what a program writes to an
 * output mount is its file `out`. Exit codes: 1 = reading or writing failed, 2 = the input or an argument is not what it
 * should be, 3 = out of memory. Integers only: the result is the same on every machine, bit for bit. */
#ifndef PORTS_H
#define PORTS_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_IO = 1, EXIT_INPUT = 2, EXIT_MEMORY = 3 };

static uint32_t lines_read;

/* What is said on stderr goes to whoever asked for the job: a program whose input they may not see names a line of it by its
 * number, others say what stands there. */
_Noreturn static inline void die(int code, const char *why, const char *where) {
#ifdef INPUT_IS_SECRET
    (void)where;
    fprintf(stderr, "%s: line %" PRIu32 "\n", why, lines_read);
#else
    fprintf(stderr, "%s%s%s\n", why, *where ? ": " : "", where);
#endif
    exit(code);
}

/* Room for one more element behind `count` of `size` bytes: doubles when it is full. */
static inline void *grow(void *array, size_t count, size_t *room, size_t size) {
    if (count < *room) return array;
    size_t wanted = *room ? *room * 2 : 256;
    if (wanted > SIZE_MAX / size || !(array = realloc(array, wanted * size))) {
        die(EXIT_MEMORY, "out of memory", "");
    }
    *room = wanted;
    return array;
}

/* Bytes of an input, with a zero behind them. */
struct bytes {
    unsigned char *at;
    size_t len;
};

static inline struct bytes read_all(FILE *from) {
    struct bytes all = {0};
    size_t room = 0;
    for (;;) {
        all.at = grow(all.at, all.len + 1, &room, 1);
        size_t n = fread(all.at + all.len, 1, room - all.len - 1, from);
        if (!n) break;
        all.len += n;
    }
    if (ferror(from)) die(EXIT_IO, "cannot read the input", "");
    all.at[all.len] = 0;
    return all;
}

/* File `i` of an input mount; 0 when the mount has fewer. */
static inline int read_mount(const char *mount, unsigned i, struct bytes *into) {
    char path[64];
    snprintf(path, sizeof path, "/%s/%04u", mount, i);
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    *into = read_all(file);
    fclose(file);
    return 1;
}

static inline FILE *open_output(const char *mount) {
    char path[64];
    snprintf(path, sizeof path, "/%s/out", mount);
    FILE *file = fopen(path, "wb");
    if (!file) die(EXIT_IO, "cannot write", path);
    return file;
}

/* Nothing may be lost without a word: a full disk shows when the last bytes leave. */
static inline void finish(FILE *file) {
    if (fflush(file) || ferror(file)) die(EXIT_IO, "cannot write the output", "");
}

/* Bytes as a text. One with a zero inside would end there for the rest of the program, and nobody would know. */
static inline char *text_of(struct bytes bytes) {
    if (strlen((char *)bytes.at) != bytes.len) die(EXIT_INPUT, "a text has no zero bytes", "");
    return (char *)bytes.at;
}

/* A line of its own, ended by zero; `at` moves behind it. NULL at the end. */
static inline char *next_line(char **at) {
    char *line = *at;
    if (!*line) return NULL;
    lines_read++;
    size_t len = strcspn(line, "\r\n");
    *at = line + len + (line[len] == '\r' && line[len + 1] == '\n') + (line[len] != 0);
    line[len] = 0;
    return line;
}

/* Cuts a line at commas. Exactly `count` fields, or it is an error: a sum over damaged rows would be worse than none. */
static inline void split(char *line, char **fields, size_t count) {
    for (size_t i = 0; i < count; i++) {
        fields[i] = line;
        line = strchr(line, ',');
        if (!line != (i + 1 == count)) die(EXIT_INPUT, "a row has too many or too few fields", fields[0]);
        if (line) *line++ = 0;
    }
}

/* A decimal number of at most 9 digits. */
static inline uint32_t number(const char *text) {
    size_t len = strspn(text, "0123456789");
    if (!len || len > 9 || text[len]) die(EXIT_INPUT, "not a number", text);
    return (uint32_t)strtoul(text, NULL, 10);
}

/* Adds to a sum. One that wraps around would look like a result. */
static inline void sum(uint32_t *total, uint32_t more) {
    if (__builtin_add_overflow(*total, more, total)) die(EXIT_INPUT, "a sum passes 2^32", "");
}

#endif
