/* summarise: a text as `to-text` writes it on stdin, its most telling sentences on stdout. `summarise N` gives N of them.
 *
 * Extractive, after Luhn (1958): a word that is used more than once and is no filler says what the text is about, and a
 * sentence with many such words says it best. A sentence's score is the sum of how often each of its different words is used
 * in the text, divided by its length and eight more words, so that short sentences do not win. Equal scores: the earlier one.
 *   title,TITLE
 *   term,COUNT,WORD        the five most frequent words
 *   sentence,TEXT          the chosen ones, in the order of the text */
#include "../ports.h"

enum { TERMS = 5, SENTENCE_WORDS_MIN = 5, LENGTH_MORE = 8, WORD_BYTES_MAX = 63 };

struct word {
    char text[WORD_BYTES_MAX + 1];
    uint32_t count, seen_in, first;
};

struct sentence {
    const char *text;
    size_t len;
    uint32_t score;
    int chosen;
};

static struct word *words;
static size_t words_count, words_room;
static struct sentence *sentences;
static size_t sentences_count, sentences_room;

static int filler(const char *word) {
    static const char *const fillers[] = {
        "about", "after", "again", "all", "also", "and", "any", "are", "because", "been", "before", "both", "but",
        "can", "cannot", "did", "does", "each", "for", "from", "had", "has", "have", "her", "his", "how", "its",
        "last", "like", "many", "may", "most", "must", "never", "nobody", "not", "now", "one", "once", "only",
        "other", "others", "our", "out", "over", "she", "some", "than", "that", "the", "their", "them", "then",
        "there", "these", "they", "this", "those", "three", "too", "two", "until", "very", "was", "were", "what",
        "when", "where", "wherever", "which", "while", "who", "will", "with", "without", "would", "you", "your",
    };
    for (size_t i = 0; i < sizeof fillers / sizeof *fillers; i++) {
        if (!strcmp(word, fillers[i])) return 1;
    }
    return strlen(word) < 3;
}

/* The next word at or after `*at`, before `end`: letters of ASCII, lowered, and other characters than the punctuation of
 * U+2000 to U+207F, which is E2 80 or E2 81 in UTF-8. 0 at the end. */
static int next_word(const char **at, const char *end, char *word) {
    size_t len = 0;
    for (; *at < end; ++*at) {
        unsigned char c = (unsigned char)**at;
        if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
        int punctuation = c == 0xE2 && ((unsigned char)(*at)[1] == 0x80 || (unsigned char)(*at)[1] == 0x81);
        if (((c >= 'a' && c <= 'z') || c >= 0x80) && !punctuation) {
            if (len < WORD_BYTES_MAX) word[len++] = (char)c;
        } else if (len) {
            break;
        } else if (punctuation && end - *at > 2) {
            *at += 2;
        }
    }
    word[len] = 0;
    return len > 0;
}

/* The entry of a word. Plurals count with their singular where the text has both. */
static struct word *entry(const char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i < words_count; i++) {
        const char *known = words[i].text;
        size_t known_len = strlen(known);
        size_t shorter = len < known_len ? len : known_len;
        const char *longer = len < known_len ? known : text;
        if (!memcmp(known, text, shorter) && (len == known_len || !strcmp(longer + shorter, "s"))) return &words[i];
    }
    return NULL;
}

static void read_sentence(const char *text, size_t len) {
    sentences = grow(sentences, sentences_count, &sentences_room, sizeof *sentences);
    sentences[sentences_count++] = (struct sentence){text, len, 0, 0};
    char word[WORD_BYTES_MAX + 1];
    for (const char *at = text; next_word(&at, text + len, word);) {
        if (filler(word)) continue;
        struct word *known = entry(word);
        if (!known) {
            words = grow(words, words_count, &words_room, sizeof *words);
            known = &words[words_count];
            *known = (struct word){.first = (uint32_t)words_count};
            words_count++;
            strcpy(known->text, word);
        }
        if (strlen(word) < strlen(known->text)) strcpy(known->text, word);
        known->count++;
    }
}

/* A sentence ends at a full stop, question or exclamation mark before a space and no lower-case letter, or with its line. */
static void read_line(const char *line) {
    const char *start = line;
    for (const char *at = line; *at; at++) {
        const char *end = at + 1;
        if (!strchr(".!?", *at)) continue;
        if (*end == '"' || *end == ')') end++;
        if (*end == ' ' && !(end[1] >= 'a' && end[1] <= 'z')) {
            read_sentence(start, (size_t)(end - start));
            start = end + 1;
            at = end;
        }
    }
    if (*start) read_sentence(start, strlen(start));
}

static void score(struct sentence *sentence, uint32_t number) {
    char word[WORD_BYTES_MAX + 1];
    uint32_t total = 0, length = 0;
    for (const char *at = sentence->text; next_word(&at, sentence->text + sentence->len, word); length++) {
        struct word *known = filler(word) ? NULL : entry(word);
        if (!known || known->count < 2 || known->seen_in == number) continue;
        known->seen_in = number;
        sum(&total, known->count);
    }
    if (length >= SENTENCE_WORDS_MIN) sentence->score = (uint32_t)((uint64_t)total * 1000 / (length + LENGTH_MORE));
}

static int by_count(const void *left, const void *right) {
    const struct word *a = left, *b = right;
    if (a->count != b->count) return a->count < b->count ? 1 : -1;
    return (a->first > b->first) - (a->first < b->first);
}

int main(int argc, char **argv) {
    if (argc != 2) die(EXIT_INPUT, "usage: summarise N", "");
    uint32_t wanted = number(argv[1]);
    char *at = text_of(read_all(stdin)), *title = next_line(&at);
    for (char *line; (line = next_line(&at));) read_line(line);
    for (size_t i = 0; i < sentences_count; i++) score(&sentences[i], (uint32_t)i + 1);
    for (; wanted; wanted--) {
        struct sentence *best = NULL;
        for (size_t i = 0; i < sentences_count; i++) {
            struct sentence *s = &sentences[i];
            if (!s->chosen && s->score && (!best || s->score > best->score)) best = s;
        }
        if (!best) break;
        best->chosen = 1;
    }

    printf("title,%s\n", title ? title : "");
    if (words_count) qsort(words, words_count, sizeof *words, by_count);
    for (size_t i = 0; i < words_count && i < TERMS; i++) printf("term,%u,%s\n", words[i].count, words[i].text);
    for (size_t i = 0; i < sentences_count; i++) {
        if (sentences[i].chosen) printf("sentence,%.*s\n", (int)sentences[i].len, sentences[i].text);
    }
    finish(stdout);
    return 0;
}
