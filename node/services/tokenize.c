/* tokenize: text on stdin, one lower-case word per line on stdout.
 *
 * A word is a run of ASCII letters, digits and bytes from 0x80 on, so that words of UTF-8 text stay whole without tables;
 * only ASCII letters are lowered. Words of any length pass: nothing is kept. */
#include "stream.h"

int main(void) {
    int in_word = 0;
    for (int c; (c = get()) >= 0;) {
        if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
        int word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80;
        if (word) {
            put((unsigned char)c);
        } else if (in_word) {
            put('\n');
        }
        in_word = word;
    }
    if (in_word) put('\n');
    flush();
    return 0;
}
