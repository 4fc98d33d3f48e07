/* join: what several owners tell of their observations (files of the mount `counts`, as `observations` writes them) becomes
 * one table on stdout and a summary for people in the mount `summary`. Owners may call a species by several names: the
 * mount `names` has lines `SYNONYM,ACCEPTED`.
 *
 * The table has a row for each species, cell and year with a detection. Its measure is the reporting rate, the share of
 * visits that found the species, over the visits of *all* owners who looked there in that year: one who looked and did not
 * find it counts as well. Rates are rounded halves up, in thousandths. */
#include "../ports.h"

enum { OWNERS_MAX = 32, OWNER_BYTES_MAX = 63 };

/* What one owner tells of one species in one cell and year; the effort there has the name "", which sorts first. */
struct row {
    const char *cell, *species;
    uint32_t year, owner, visits, amount;
};

static struct row *rows;
static size_t count, room;
static const char *owners[OWNERS_MAX];
static uint32_t owners_count, withheld;

static int by_group(const void *left, const void *right) {
    const struct row *a = left, *b = right;
    int order = strcmp(a->cell, b->cell);
    if (order) return order;
    if (a->year != b->year) return a->year < b->year ? -1 : 1;
    order = strcmp(a->species, b->species);
    return order ? order : (a->owner > b->owner) - (a->owner < b->owner);
}

static int by_name(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static struct {
    const char *synonym, *accepted;
} *names;
static size_t names_count, names_room;

static void read_names(char *text) {
    char *line, *field[2];
    while ((line = next_line(&text))) {
        split(line, field, 2);
        names = grow(names, names_count, &names_room, sizeof *names);
        names[names_count].synonym = field[0];
        names[names_count++].accepted = field[1];
    }
}

static const char *accepted(const char *name) {
    for (size_t i = 0; i < names_count; i++) {
        if (!strcmp(names[i].synonym, name)) return names[i].accepted;
    }
    return name;
}

static void read_rows(char *text, uint32_t owner) {
    char *line, *field[6];
    while ((line = next_line(&text))) {
        if (!strncmp(line, "dataset,", 8)) {
            owners[owner] = line + 8;
            if (strlen(owners[owner]) > OWNER_BYTES_MAX) die(EXIT_INPUT, "the name of a dataset is too long", "");
        } else if (!strncmp(line, "withheld,", 9)) {
            split(line, field, 4);
            sum(&withheld, number(field[2]));
        } else if (!strncmp(line, "effort,", 7)) {
            split(line, field, 5);
            rows = grow(rows, count, &room, sizeof *rows);
            rows[count++] = (struct row){field[1], "", number(field[2]), owner, number(field[3]), number(field[4])};
        } else if (!strncmp(line, "species,", 8)) {
            split(line, field, 6);
            rows = grow(rows, count, &room, sizeof *rows);
            rows[count++] = (struct row){field[1], accepted(field[3]), number(field[2]), owner, number(field[4]),
                                         number(field[5])};
        } else {
            die(EXIT_INPUT, "not a line of counts", line);
        }
    }
    if (!owners[owner]) die(EXIT_INPUT, "counts without a `dataset` line", "");
}

/* `part` of `whole` in thousandths. */
static uint32_t thousandths(uint64_t part, uint64_t whole) {
    return whole ? (uint32_t)((part * 2000 + whole) / (2 * whole)) : 0;
}

static void print_table(void) {
    printf("cell,year,species,datasets,visits,minutes,detections,individuals,reporting_rate,individuals_per_hour\n");
    uint32_t visits = 0, minutes = 0;
    char datasets[OWNERS_MAX * (OWNER_BYTES_MAX + 1)] = "";
    for (size_t i = 0, end; i < count; i = end) {
        const struct row *first = &rows[i];
        uint32_t found = 0, amount = 0;
        for (end = i; end < count && !strcmp(rows[end].cell, first->cell) && rows[end].year == first->year
                      && !strcmp(rows[end].species, first->species); end++) {
            sum(&found, rows[end].visits);
            sum(&amount, rows[end].amount);
        }
        if (!*first->species) {
            visits = found;
            minutes = amount;
            *datasets = 0;
            for (size_t j = i; j < end; j++) {
                size_t used = strlen(datasets);
                snprintf(datasets + used, sizeof datasets - used, "%s%s", used ? "+" : "", owners[rows[j].owner]);
            }
            continue;
        }
        if (found > visits) die(EXIT_INPUT, "found in more visits than there were", first->cell);
        uint32_t rate = thousandths(found, visits), hourly = thousandths((uint64_t)amount * 60, minutes);
        printf("%s,%u,%s,%s,%u,%u,%u,%u,%u.%03u,%u.%03u\n", first->cell, first->year, first->species, datasets, visits,
               minutes, found, amount, rate / 1000, rate % 1000, hourly / 1000, hourly % 1000);
    }
}

/* Visits in `year` that found `species`; of the effort ("") all visits. */
static uint32_t visits_of(const char *species, uint32_t year) {
    uint32_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].year == year && !strcmp(rows[i].species, species)) sum(&total, rows[i].visits);
    }
    return total;
}

static void print_summary(FILE *out) {
    uint32_t cells = 0, shared = 0, visits = 0, first = UINT32_MAX, last = 0;
    uint64_t minutes = 0;
    const char **species = NULL;
    size_t species_count = 0, species_room = 0;
    for (size_t i = 0; i < count; i++) {
        int new_cell = !i || strcmp(rows[i].cell, rows[i - 1].cell);
        cells += (uint32_t)new_cell;
        if (new_cell) {
            uint32_t there = 0;
            for (size_t j = i; j < count && !strcmp(rows[j].cell, rows[i].cell); j++) there |= 1u << rows[j].owner;
            shared += (there & (there - 1)) != 0;
        }
        if (rows[i].year < first) first = rows[i].year;
        if (rows[i].year > last) last = rows[i].year;
        if (!*rows[i].species) {
            sum(&visits, rows[i].visits);
            minutes += rows[i].amount;
        } else {
            species = grow(species, species_count, &species_room, sizeof *species);
            species[species_count++] = rows[i].species;
        }
    }
    if (species_count) qsort(species, species_count, sizeof *species, by_name);

    fprintf(out, "Data of %u owners:", owners_count);
    for (uint32_t i = 0; i < owners_count; i++) fprintf(out, "%s %s", i ? "," : "", owners[i]);
    fprintf(out, "\n%u visits, %llu hours, %u cells of 10 km, %u of them visited by more than one owner\n", visits,
            (unsigned long long)(minutes / 60), cells, shared);
    fprintf(out, "%u further visits are withheld by their owners: too few in their cell and year\n\n", withheld);
    fprintf(out, "Share of visits that found the species\n\n%-24s", "");
    for (uint32_t year = first; year <= last && count; year++) fprintf(out, "%8u", year);
    fputc('\n', out);
    for (size_t i = 0; i < species_count; i++) {
        if (i && !strcmp(species[i], species[i - 1])) continue;
        fprintf(out, "%-24s", species[i]);
        for (uint32_t year = first; year <= last; year++) {
            uint32_t rate = thousandths(visits_of(species[i], year), visits_of("", year));
            fprintf(out, "   %u.%03u", rate / 1000, rate % 1000);
        }
        uint32_t then = thousandths(visits_of(species[i], first), visits_of("", first));
        uint32_t now = thousandths(visits_of(species[i], last), visits_of("", last));
        fprintf(out, "%s\n", now * 4 < then * 3 ? "   falling" : now * 3 > then * 4 ? "   rising" : "");
    }
}

int main(void) {
    struct bytes file;
    for (unsigned i = 0; read_mount("names", i, &file); i++) read_names(text_of(file));
    while (owners_count < OWNERS_MAX && read_mount("counts", owners_count, &file)) {
        read_rows(text_of(file), owners_count++);
    }
    if (count) qsort(rows, count, sizeof *rows, by_group);
    print_table();
    finish(stdout);
    FILE *summary = open_output("summary");
    print_summary(summary);
    finish(summary);
    return 0;
}
