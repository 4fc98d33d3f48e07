/* merge-rank: outputs of `count`, one after the other, on stdin; the sums on stdout, most frequent first, equals by the
 * word's bytes. With `--top N` only the first N.
 *
 * A line that is not `count<TAB>word` is an error: a result over damaged counts would be worse than none. */
#define STREAM_WORDS
#include "stream.h"

static int by_rank(const void *left, const void *right) {
    uint64_t a = (*(struct entry *const *)left)->count, b = (*(struct entry *const *)right)->count;
    return a != b ? (a < b ? 1 : -1) : by_word(left, right);
}

/* The number at the start of `bytes`; how long it is, 0 if there is none. */
static size_t number(const unsigned char *bytes, size_t len, uint64_t *value) {
    size_t i = 0;
    *value = 0;
    for (; i < len && bytes[i] >= '0' && bytes[i] <= '9'; i++) {
        uint64_t digit = bytes[i] - '0';
        if (*value > (UINT64_MAX - digit) / 10) return 0;
        *value = *value * 10 + digit;
    }
    return i;
}

static void line(struct bytes *text) {
    if (text->len && text->at[text->len - 1] == '\r') text->len--;
    if (text->len) {
        uint64_t count;
        size_t at = number(text->at, text->len, &count);
        if (!at || at + 1 >= text->len || text->at[at] != '\t') {
            die(EXIT_INPUT, "a line of the input is not a count, a tab and a word");
        }
        add(text->at + at + 1, text->len - at - 1, count);
    }
    text->len = 0;
}

int main(int argc, char **argv) {
    uint64_t top = UINT64_MAX;
    if (argc == 3 && !strcmp(argv[1], "--top")) {
        size_t len = strlen(argv[2]);
        if (!len || number((const unsigned char *)argv[2], len, &top) != len) {
            die(EXIT_INPUT, "usage: merge-rank [--top N]");
        }
    } else if (argc > 1) {
        die(EXIT_INPUT, "usage: merge-rank [--top N]");
    }
    struct bytes text = {0};
    for (int c; (c = get()) >= 0;) {
        if (c == '\n') {
            line(&text);
        } else {
            append(&text, (unsigned char)c);
        }
    }
    line(&text);
    sort(by_rank);
    put_entries(top);
    return 0;
}
