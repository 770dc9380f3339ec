#!/usr/bin/env bash
# The races of docs/race.md, from text and model to docs/race-NAME.json and .svg: all methods in every setting, or those
# that are named. Of these alone, too: slowest, parts, slow-links, ranks, ranks-nouns, ranks-by-link, ranks-by-link-nouns.
# Hours on two cores; interrupted, a race goes on. The families are measured first: leave the machine alone for that.
#
#   benchmarks/race.sh [middle-group ...]      with PYTHON=.venv/bin/python, or `make race RACES=middle-group`
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
work=build/race
export OMP_NUM_THREADS=1
BASELINES=fedquad,full-depth,exclude-weak,uniform-depth,depth-only,hetlora,flexlora,random-layers,importance-layers
ALL=best,$BASELINES,full-depth-everywhere
# Of the other settings: without those that choose layers.
MOST=best,fedquad,full-depth,exclude-weak,uniform-depth,depth-only,hetlora,flexlora

family() { # NAME OPTIONS...
    [ -f "$work/$1/family.json" ] || "$python" -m quadloom_runtime export build/examples/movie_reviews/model \
        --task sequence-classification --batch-size 8 --sequence-length 32 --measure --replace --out "$work/$1" "${@:2}"
}

# Of another race.
RATES=(--rates-from docs/race-middle-group.json)
CEILING=(--ceiling-from docs/race-middle-group.json)
HALF_CEILING=(--ceiling-from docs/race-middle-iid.json)

# Runs of the seeds 0 to 5 were looked at while the methods were worked on.
race() { # NAME FAMILY TEXT OPTIONS...
    "$python" -m quadloom_runtime bench convergence --family "$work/$2" --train "$work/$3/train.jsonl" \
        --eval "$work/$3/eval.jsonl" --seeds 10,11,12,13,14 --steps 4 --head-learning-rate 1e-2 \
        --learning-rates 2e-3,4e-3,8e-3 --ceiling-learning-rates 1e-3,2e-3,4e-3,8e-3 --ceiling-epochs 2 \
        --tuning-share 0.5 --budget-virtual-s 64 --evaluations 10 --jobs 2 --json "docs/race-$1.json" --chart "docs/race-$1.svg" "${@:4}"
}

movies() {
    [ -f build/examples/movie_reviews/eval.jsonl ] || "$python" examples/movie_reviews/prepare.py
    [ -f "$work/movies/eval.jsonl" ] || "$python" examples/movie_reviews/prepare.py --held-out 0.2 "$work/movies"
}

# The same text to train on, and half of the held-out text: evaluations are half of what a short race costs.
half() {
    mkdir -p "$work/movies-half"
    cp "$work/movies/train.jsonl" "$work/movies-half/train.jsonl"
    head -n 1056 "$work/movies/eval.jsonl" > "$work/movies-half/eval.jsonl"
}

nouns() {
    "$python" examples/wordnet_nouns/prepare.py "$work/nouns"
}

run() { # NAME
    movies
    case $1 in
    middle-group)
        family family-movies --num-labels 2 --depths 1-6
        race "$1" family-movies movies --setting "$1" --methods "$ALL"
        ;;
    slowest) # ours and the one that 64 virtual seconds are by far too short for
        family family-movies --num-labels 2 --depths 1-6
        race slowest family-movies movies --setting middle-group --methods best,depth-only "${RATES[@]}" "${CEILING[@]}" \
            --budget-virtual-s 100 --evaluations 12
        # Below the grid it scored as well on validation text.
        race slowest-1e-3 family-movies movies --setting middle-group --methods depth-only "${CEILING[@]}" \
            --learning-rates 1e-3 --budget-virtual-s 100 --evaluations 12
        ;;
    middle-iid | low-iid | high-iid | low-group | high-group) # shorter, with the rates of middle-group
        half
        family family-movies --num-labels 2 --depths 1-6
        local ceiling=("${HALF_CEILING[@]}") seconds=16
        if [ "$1" = middle-iid ]; then ceiling=(--ceiling-learning-rates 2e-3); fi
        if [[ $1 == *-group ]]; then seconds=20; fi
        race "$1" family-movies movies-half --setting "$1" --methods "$MOST" "${RATES[@]}" "${ceiling[@]}" \
            --budget-virtual-s "$seconds" --evaluations 6
        ;;
    parts) # what of the gain is due to which part
        half
        family family-movies --num-labels 2 --depths 1-6
        race parts family-movies movies-half --setting middle-group "${HALF_CEILING[@]}" --budget-virtual-s 32 \
            --evaluations 6 --methods \
            best,best-newest,best-deepest,best-full-depth,full-depth-balanced,deadline-balanced,fedquad-balanced,fedquad-every-class,fedquad-class-balance
        ;;
    nouns) # 26 classes of WordNet's nouns
        nouns
        family family-nouns --num-labels 26 --depths 1-6
        race nouns family-nouns nouns --setting middle-group --methods "$MOST" --budget-virtual-s 32 --evaluations 8
        ;;
    slow-links) # 0.5 to 8 Mbit/s: rank as a choice of the planner
        half
        family family-movies --num-labels 2 --depths 1-6
        race slow-links family-movies movies-half --setting links-group "${HALF_CEILING[@]}" --budget-virtual-s 40 \
            --evaluations 6 --methods best-ranks,best,best-smallest-rank,fedquad,full-depth,hetlora
        ;;
    ranks) # devices that differ in their rank alone
        family family-rank-16 --num-labels 2 --depths 6 --rank 16
        race ranks family-rank-16 movies --setting ranks-iid --budget-virtual-s 24 --evaluations 6 \
            --methods flexlora-change,flexlora,zero-padding,uniform-smallest-rank
        ;;
    ranks-nouns) # the same with 26 classes
        nouns
        family family-nouns-rank-16 --num-labels 26 --depths 6 --rank 16
        race ranks-nouns family-nouns-rank-16 nouns --setting ranks-iid --budget-virtual-s 32 --evaluations 8 \
            --methods flexlora-change,flexlora,zero-padding,uniform-smallest-rank
        ;;
    ranks-by-link | ranks-by-link-nouns) # about as many rounds for all; other seeds, as those of ranks and ranks-nouns led to it
        local family=family-rank-16 text=movies labels=2
        if [ "$1" = ranks-by-link-nouns ]; then
            nouns
            family=family-nouns-rank-16 text=nouns labels=26
        fi
        family "$family" --num-labels "$labels" --depths 6 --rank 16
        race "$1" "$family" "$text" --setting ranks-by-link-iid --seeds 20,21,22,23,24 --tuning-share 1 \
            --budget-virtual-s 32 --evaluations 8 --methods flexlora-change,flexlora,zero-padding,uniform-smallest-rank
        ;;
    *)
        echo "race.sh: no race is called '$1'" >&2
        exit 2
        ;;
    esac
}

[ $# -gt 0 ] || set -- middle-group middle-iid high-group low-group nouns high-iid low-iid
for name in "$@"; do
    SECONDS=0
    run "$name"
    echo "race.sh: $name took $((SECONDS / 60)) minutes this time" >&2
done
