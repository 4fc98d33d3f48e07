/* observations: what one owner tells of the observations that lie in this very module.
 *
 * The owner's file is part of the program (`../build.sh bake`), so the file itself never travels: who may run this gets
 * counts. Nobody can ask for more than this, since there is neither an argument nor an input:
 *   dataset,NAME
 *   effort,CELL,YEAR,VISITS,MINUTES                  how long was looked, also where nothing was found
 *   species,CELL,YEAR,NAME,VISITS,INDIVIDUALS        in how many visits it was found, how many there were
 *   withheld,YEAR,VISITS,MINUTES                     visits to cells with too few of them in a year
 * Cells are those of the European reference grid, 10 km wide (ETRS89-LAEA): 10kmE412N305. Who observed what on which day
 * and where exactly stays with the owner, and so does what a year's few visits to one cell would give away. An error names
 * the number of a line, and nothing that stands in it.
 *
 * The file: eventID,eventDate,x,y,recordedBy,samplingEffort,scientificName,individualCount, terms of Darwin Core; x and y
 * in metres, effort in minutes, sorted by eventID. A visit that found nothing is a row with the last two fields empty. */
#define INPUT_IS_SECRET
#include "../ports.h"

enum { CELL_METRES = 10000, VISITS_MIN = 3, YEARS_MAX = 3000 };

static const unsigned char FILE_OF_THE_OWNER[] = {
#embed DATA suffix(, )
    0,
};

/* One species at one visit; the visit itself has the name "", which sorts before all others. */
struct row {
    uint32_t east, north, year, visit, amount;
    const char *species;
};

static struct row *rows;
static size_t count, room;

static int by_group(const void *left, const void *right) {
    const struct row *a = left, *b = right;
    if (a->east != b->east) return a->east < b->east ? -1 : 1;
    if (a->north != b->north) return a->north < b->north ? -1 : 1;
    if (a->year != b->year) return a->year < b->year ? -1 : 1;
    int order = strcmp(a->species, b->species);
    return order ? order : (a->visit > b->visit) - (a->visit < b->visit);
}

static void add(struct row row) {
    rows = grow(rows, count, &room, sizeof *rows);
    rows[count++] = row;
}

static void read_rows(char *text) {
    enum { EVENT, DATE, X, Y, OBSERVER, EFFORT, SPECIES, INDIVIDUALS, FIELDS };
    char *line = next_line(&text), *field[FIELDS];
    const char *event = "";
    struct row row = {0};
    while ((line = next_line(&text))) {
        split(line, field, FIELDS);
        int order = strcmp(event, field[EVENT]);
        if (order > 0) die(EXIT_INPUT, "the file is not sorted by eventID", field[EVENT]);
        if (strlen(field[DATE]) != 10) die(EXIT_INPUT, "not a date", field[DATE]);
        field[DATE][4] = 0;
        if (order < 0) {
            event = field[EVENT];
            row.east = number(field[X]) / CELL_METRES;
            row.north = number(field[Y]) / CELL_METRES;
            row.year = number(field[DATE]);
            row.visit++;
            row.species = "";
            row.amount = number(field[EFFORT]);
            if (row.year >= YEARS_MAX) die(EXIT_INPUT, "not a year", field[DATE]);
            add(row);
        }
        if (*field[SPECIES]) {
            row.species = field[SPECIES];
            row.amount = number(field[INDIVIDUALS]);
            add(row);
        }
    }
}

int main(void) {
    static uint32_t withheld_visits[YEARS_MAX], withheld_minutes[YEARS_MAX];
    struct bytes file = {malloc(sizeof FILE_OF_THE_OWNER), sizeof FILE_OF_THE_OWNER - 1};
    if (!file.at) die(EXIT_MEMORY, "out of memory", "");
    memcpy(file.at, FILE_OF_THE_OWNER, sizeof FILE_OF_THE_OWNER);
    read_rows(text_of(file));
    if (count) qsort(rows, count, sizeof *rows, by_group);

    printf("dataset,%s\n", DATASET);
    int tell = 0;
    for (size_t i = 0, end; i < count; i = end) {
        const struct row *first = &rows[i];
        uint32_t visits = 0, amount = 0;
        for (end = i; end < count && rows[end].east == first->east && rows[end].north == first->north
                      && rows[end].year == first->year && !strcmp(rows[end].species, first->species); end++) {
            /* A species that has several rows of one visit was found once. */
            visits += end == i || rows[end].visit != rows[end - 1].visit;
            sum(&amount, rows[end].amount);
        }
        if (!*first->species) {
            tell = visits >= VISITS_MIN;
            if (tell) {
                printf("effort,10kmE%uN%u,%u,%u,%u\n", first->east, first->north, first->year, visits, amount);
            } else {
                withheld_visits[first->year] += visits;
                sum(&withheld_minutes[first->year], amount);
            }
        } else if (tell) {
            printf("species,10kmE%uN%u,%u,%s,%u,%u\n", first->east, first->north, first->year, first->species,
                   visits, amount);
        }
    }
    for (uint32_t year = 0; year < YEARS_MAX; year++) {
        if (withheld_visits[year]) {
            printf("withheld,%u,%u,%u\n", year, withheld_visits[year], withheld_minutes[year]);
        }
    }
    finish(stdout);
    return 0;
}
