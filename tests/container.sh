#!/usr/bin/env bash
# Builds the image and runs it: the doctor, a tiny grid, its check. `make test-container`; BUILD has more options of the
# build ("--build-arg GPUS=all"), ENGINE the program: docker, podman or buildah.
set -euo pipefail
cd "$(dirname "$0")/.."
image=localhost/foalkit-test
grid=(demo corpus.generate.turns_per_session=12 training.epochs=1 "ablation={honest: [audio]}" "robustness.rows=[]")
inside='set -e; test "$(id -u)" != 0; foalkit doctor demo; foalkit grid "$@"; foalkit check "$@"'

for engine in ${ENGINE:-docker podman buildah}; do
    "$engine" info > /dev/null 2>&1 && break || echo "$engine cannot be used here"
    engine=
done
if [ -z "$engine" ]; then
    echo "nothing was built or run: install docker, podman or buildah, or start the docker daemon"
    exit 1
fi

echo "== $engine builds $image"
isolation=()
[ "$engine" = docker ] || isolation=(--isolation "${ISOLATION:-chroot}")  # needs no namespaces
# shellcheck disable=SC2086
"$engine" build "${isolation[@]}" -t "$image" ${BUILD:-} .

outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
chmod 1777 "$outputs"
run=("$engine" run --rm --volume "$outputs:/foalkit/outputs" "$image")
if [ "$engine" = buildah ] || ! "${run[@]}" true; then  # podman's images are buildah's, too
    work=$([ "$engine" = docker ] || buildah from "$image") || work=
    if [ -z "$work" ]; then
        echo "the image was built; nothing was run in it, since $engine may not run containers on this machine (above)"
        exit 1
    fi
    engine=buildah
    trap 'buildah rm "$work" > /dev/null; rm -rf "$outputs"' EXIT
    run=(buildah run "${isolation[@]}" --volume "$outputs:/foalkit/outputs" "$work")
fi
echo "== $engine runs it: the doctor, a tiny grid and its check, with $outputs as its outputs"
"${run[@]}" bash -c "$inside" foalkit "${grid[@]}"
report=$(find "$outputs" -name report.html)
[ -n "$report" ] || { echo "no report came out of the container"; exit 1; }
echo "== built and run by $engine: the grid and its check went through, and the report lies outside the container"
