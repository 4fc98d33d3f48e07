/* digest: what `summarise` wrote of several texts (files of the mount `summaries`) becomes one Markdown document on stdout.
 *
 * Each text with its title, its words and its sentences, in the order of the inputs; then the words that more than one of
 * them is about. */
#include "../ports.h"

struct term {
    const char *word;
    uint32_t count, texts;
};

static struct term *terms;
static size_t terms_count, terms_room;

static void count_term(const char *word, uint32_t count) {
    for (size_t i = 0; i < terms_count; i++) {
        if (strcmp(terms[i].word, word)) continue;
        sum(&terms[i].count, count);
        terms[i].texts++;
        return;
    }
    terms = grow(terms, terms_count, &terms_room, sizeof *terms);
    terms[terms_count++] = (struct term){word, count, 1};
}

static int by_texts(const void *left, const void *right) {
    const struct term *a = left, *b = right;
    if (a->texts != b->texts) return a->texts < b->texts ? 1 : -1;
    if (a->count != b->count) return a->count < b->count ? 1 : -1;
    return strcmp(a->word, b->word);
}

/* Writes the part on one text, and counts its words. */
static void digest(char *at) {
    int terms_before = 0, sentences_before = 0;
    for (char *line; (line = next_line(&at));) {
        if (!strncmp(line, "title,", 6)) {
            printf("\n## %s\n\n", line[6] ? line + 6 : "(no title)");
        } else if (!strncmp(line, "term,", 5)) {
            char *field[3];
            split(line, field, 3);
            count_term(field[2], number(field[1]));
            printf("%s%s", terms_before++ ? ", " : "*", field[2]);
        } else if (!strncmp(line, "sentence,", 9)) {
            printf("%s- %s\n", sentences_before++ || !terms_before ? "" : "*\n\n", line + 9);
        } else {
            die(EXIT_INPUT, "not a line of a summary", line);
        }
    }
    if (terms_before && !sentences_before) printf("*\n");
}

int main(void) {
    struct bytes file;
    uint32_t count = 0;
    printf("# Digest\n");
    for (; read_mount("summaries", count, &file); count++) digest(text_of(file));
    if (terms_count) qsort(terms, terms_count, sizeof *terms, by_texts);
    printf("\n## In more than one of these %u texts\n\n", count);
    for (size_t i = 0; i < terms_count && terms[i].texts > 1; i++) {
        printf("- %s: %u times in %u texts\n", terms[i].word, terms[i].count, terms[i].texts);
    }
    finish(stdout);
    return 0;
}
