#!/bin/sh
# Makes the observations of two owners, always the same: made-up people, visits and numbers of real species. `north` and
# `south` overlap where their regions meet, and `south` writes two species by their older names. Larks, lapwings and
# partridges become fewer, eagles and blackcaps more.
#   make-data.sh north|south > FILE.csv
set -eu
case "${1:-}" in
    north) seed=2019 low=326 initial=N ;;
    south) seed=7321 low=324 initial=S ;;
    *) echo "usage: $0 north|south" >&2; exit 2 ;;
esac
LC_ALL=C awk -v state="$seed" -v low="$low" -v initial="$initial" '
# Park and Miller: exact in every awk, since no product passes 2^53.
function below(n) { state = state * 16807 % 2147483647; return state % n }
BEGIN {
    older["Curruca communis"] = "Sylvia communis"; older["Emberiza calandra"] = "Miliaria calandra"
    # Share of visits that find it, in thousandths: in 2019, and how much more or less each year; largest flock.
    n = split("Alauda arvensis:620:-60:9 Curruca communis:300:10:3 Emberiza calandra:340:-15:6 " \
        "Haliaeetus albicilla:60:35:2 Perdix perdix:210:-35:7 Sylvia atricapilla:380:45:4 Vanellus vanellus:450:-70:24", \
        words, " ")
    for (i = 1; i <= n; i += 2) {
        species = (i + 1) / 2
        name[species] = words[i] " " substr(words[i + 1], 1, index(words[i + 1], ":") - 1)
        split(words[i + 1], f, ":")
        if (initial == "S" && name[species] in older) name[species] = older[name[species]]
        share[species] = f[2]; trend[species] = f[3]; flock[species] = f[4]
    }
    print "eventID,eventDate,x,y,recordedBy,samplingEffort,scientificName,individualCount"
    for (year = 2019; year <= 2023; year++) {
        visits = 58 + below(10)
        for (visit = 1; visit <= visits; visit++) {
            event = sprintf("%s-%d-%03d", initial, year, visit)
            date = sprintf("%d-%02d-%02d", year, 4 + below(3), 1 + below(30))
            # Some cells are visited often, some seldom.
            east = 451 + int(below(4) * below(4) / 4); north = low + int((below(5) + below(5)) / 2)
            x = east * 10000 + below(1000) * 10; y = north * 10000 + below(1000) * 10
            who = sprintf("observer-%s%02d", initial, 1 + below(14))
            minutes = 20 + 5 * below(17)
            row = sprintf("%s,%s,%d,%d,%s,%d", event, date, x, y, who, minutes)
            found = 0
            for (s = 1; s <= n / 2; s++) {
                odds = share[s] + trend[s] * (year - 2019) + (minutes - 60) * 2
                if (below(1000) < odds) { print row "," name[s] "," 1 + below(flock[s]); found++ }
            }
            if (!found) print row ",,"
        }
    }
}'
