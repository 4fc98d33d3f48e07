/* count: words on stdin, one per line; `count<TAB>word` on stdout, sorted by the word's bytes.
 *
 * Empty lines are no words; a carriage return before the end of a line is not part of the word. */
#define STREAM_WORDS
#include "stream.h"

static void line(struct bytes *word) {
    if (word->len && word->at[word->len - 1] == '\r') word->len--;
    if (word->len) add(word->at, word->len, 1);
    word->len = 0;
}

int main(void) {
    struct bytes word = {0};
    for (int c; (c = get()) >= 0;) {
        if (c == '\n') {
            line(&word);
        } else {
            append(&word, (unsigned char)c);
        }
    }
    line(&word);
    sort(by_word);
    put_entries(UINT64_MAX);
    return 0;
}
