/* to-text: an HTML page, a Markdown text or a plain text (UTF-8) on stdin; its words on stdout, for programs that read words.
 *
 * The first line is the title; then comes each paragraph, heading, item or table cell on a line of its own. What the input is
 * shows in its first character that is not white space: `<` begins HTML; else it is Markdown, of which plain text is a simple
 * case.
 * Scripts, styles, comments, navigation and blocks of code are no text. This is no browser: of HTML it knows tags and the
 * character references that texts use. */
#include "../ports.h"

static char *line;
static size_t line_len, line_room;
static int space_before, lines_count;

static void put(unsigned char byte) {
    if (byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r') {
        space_before = line_len > 0;
        return;
    }
    line = grow(line, line_len + 1, &line_room, 1);
    if (space_before) line[line_len++] = ' ';
    space_before = 0;
    line = grow(line, line_len + 1, &line_room, 1);
    line[line_len++] = (char)byte;
}

static void put_text(const char *text) {
    while (*text) put((unsigned char)*text++);
}

/* The title comes first, and only once: the heading that says it again is left out. */
static void end_line(void) {
    static char *title;
    static size_t title_len;
    if (line_len && !(lines_count == 1 && line_len == title_len && !memcmp(line, title, line_len))) {
        fwrite(line, 1, line_len, stdout);
        putchar('\n');
        if (!lines_count++) {
            title = line, title_len = line_len;
            line = NULL, line_room = 0;
        }
    }
    line_len = 0;
    space_before = 0;
}

/* A character as UTF-8. What is none, or would break a line, becomes a space. */
static void put_character(uint32_t c) {
    if (c < 0x20 || c == 0xA0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) {
        put(' ');
    } else if (c < 0x80) {
        put((unsigned char)c);
    } else if (c < 0x800) {
        put((unsigned char)(0xC0 | c >> 6));
        put((unsigned char)(0x80 | (c & 63)));
    } else {
        if (c < 0x10000) {
            put((unsigned char)(0xE0 | c >> 12));
        } else {
            put((unsigned char)(0xF0 | c >> 18));
            put((unsigned char)(0x80 | (c >> 12 & 63)));
        }
        put((unsigned char)(0x80 | (c >> 6 & 63)));
        put((unsigned char)(0x80 | (c & 63)));
    }
}

/* A character reference at `at`, which is `&`; how long it is. What is no reference is a character. */
static size_t reference(const char *at) {
    static const struct {
        const char *name, *text;
    } known[] = {
        {"amp", "&"}, {"lt", "<"}, {"gt", ">"}, {"quot", "\""}, {"apos", "'"}, {"nbsp", " "},
        {"ndash", "–"}, {"mdash", "—"}, {"hellip", "…"}, {"lsquo", "‘"}, {"rsquo", "’"}, {"ldquo", "“"},
        {"rdquo", "”"}, {"eacute", "é"}, {"egrave", "è"}, {"agrave", "à"}, {"ccedil", "ç"}, {"auml", "ä"},
        {"ouml", "ö"}, {"uuml", "ü"}, {"szlig", "ß"}, {"euro", "€"}, {"deg", "°"}, {"copy", "©"},
    };
    size_t len = strcspn(at, "; <\n");
    if (at[len] == ';' && len > 2 && len < 10 && at[1] == '#') {
        int hex = at[2] == 'x' || at[2] == 'X';
        char *end;
        unsigned long c = strtoul(at + 2 + hex, &end, hex ? 16 : 10);
        if (end == at + len) {
            put_character((uint32_t)c);
            return len + 1;
        }
    }
    for (size_t i = 0; at[len] == ';' && i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) == len - 1 && !memcmp(known[i].name, at + 1, len - 1)) {
            put_text(known[i].text);
            return len + 1;
        }
    }
    put('&');
    return 1;
}

/* Whether `at` begins with `word`, which is lower case, and no letter or digit follows. */
static int begins(const char *at, const char *word) {
    for (; *word; at++, word++) {
        if ((*at >= 'A' && *at <= 'Z' ? *at + 32 : *at) != *word) return 0;
    }
    return !((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9'));
}

static void html(const char *at) {
    static const char *const no_text[] = {"script", "style", "nav", "template", "svg"};
    static const char *const inside_lines[] = {"a", "abbr", "b", "cite", "code", "em", "i", "small", "span", "strong",
                                               "sub", "sup", "u"};
    while (*at) {
        if (*at == '&') {
            at += reference(at);
        } else if (*at != '<' || !strchr("/!?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", at[1])) {
            put((unsigned char)*at++);
        } else if (!strncmp(at, "<!--", 4)) {
            const char *end = strstr(at, "-->");
            at = end ? end + 3 : at + strlen(at);
        } else {
            const char *name = at + 1 + (at[1] == '/'), *without = NULL;
            int ends_line = 1;
            for (size_t i = 0; i < sizeof inside_lines / sizeof *inside_lines; i++) {
                if (begins(name, inside_lines[i])) ends_line = 0;
            }
            for (size_t i = 0; at[1] != '/' && i < sizeof no_text / sizeof *no_text; i++) {
                if (begins(name, no_text[i])) without = no_text[i];
            }
            if (ends_line) end_line();
            at += strcspn(at, ">");
            while (without && *at && !(at[0] == '<' && at[1] == '/' && begins(at + 2, without))) at++;
            if (without) at += strcspn(at, ">");
            if (*at) at++;
        }
    }
    end_line();
}

/* The words of a line of Markdown: links without their addresses, no marks of emphasis. */
static void markdown_words(const char *at) {
    for (; *at; at++) {
        const char *to = *at == ']' && at[1] == '(' ? strchr(at, ')') : NULL;
        if (to) {
            at = to;
        } else if (*at == '\\' && at[1]) {
            put((unsigned char)*++at);
        } else if (!strchr("*`[]", *at)) {
            put((unsigned char)*at);
        }
    }
    put(' ');
}

static void markdown(char *at) {
    int in_code = 0;
    for (char *text; (text = next_line(&at));) {
        text += strspn(text, " \t");
        size_t digits = strspn(text, "0123456789"), bar = strspn(text, "=-");
        if (!strncmp(text, "```", 3)) {
            end_line();
            in_code = !in_code;
        } else if (in_code) {
            continue;
        } else if (!*text || (bar > 1 && !text[bar])) {
            end_line(); /* between paragraphs, or under a heading */
        } else if (*text == '#') {
            end_line();
            markdown_words(text + strspn(text, "#"));
            end_line();
        } else if (strchr("-*+>", *text) && text[1] == ' ') {
            end_line();
            markdown_words(text + 2);
        } else if (digits && (text[digits] == '.' || text[digits] == ')') && text[digits + 1] == ' ') {
            end_line();
            markdown_words(text + digits + 2);
        } else {
            markdown_words(text);
        }
    }
    end_line();
}

int main(void) {
    char *text = text_of(read_all(stdin));
    if (!strncmp(text, "\xEF\xBB\xBF", 3)) text += 3;
    if (text[strspn(text, " \t\r\n")] == '<') {
        html(text);
    } else {
        markdown(text);
    }
    finish(stdout);
    return 0;
}
