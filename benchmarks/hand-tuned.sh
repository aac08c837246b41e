#!/usr/bin/env bash
# The steps of the reference (see reference/Makefile), tuned by hand for speed, one after the other:
#
#   BASE_IMAGE=... benchmarks/hand-tuned.sh          from source to an accepted release image
#   BASE_IMAGE=... benchmarks/hand-tuned.sh clean    remove all that it made
#
# It uses the project's own images and compose files: all images in one build, of which the release
# image takes the wheels without a detour; a database whose cluster is there already; services
# created at once, so that a step is no more than `docker start`; polling instead of waiting; what
# needs no database runs while the database starts.
set -euo pipefail
cd "$(dirname "$0")/.."

id=$(cksum <<<"$PWD")
name=hand-tuned-${id%% *}
target=$PWD/target/hand-tuned

export BASE_IMAGE=${BASE_IMAGE:-debian:12-slim}
export BASE_SOURCE=$BASE_IMAGE
export PROJECT=$name CHECKOUT=$name IMAGE_PREFIX=$name RUN=$name OWNER=$UID
export EXPORT_FOLDER=$target/wheelhouse WHEELS=target:wheelhouse
export PIP_CONF=$target/secrets/pip.conf CA_FILE=$target/secrets/ca.pem
export BIND_ADDRESS=127.0.0.1 HTTP_PORT=0
export APP_SECRET_KEY='a key for the hand-tuned release, which nobody but its tests sees'
export APP_ALLOWED_HOSTS=localhost,127.0.0.1,nginx APP_HTTPS=off
export APP_DB_NAME=todo APP_DB_USER=todo APP_DB_PASSWORD=password
REVISION=$(git describe --always --dirty --abbrev=40 --exclude='*')
read -r CHANGED CREATED < <(git log -1 --format='%ct %cI')
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' app/pyproject.toml)
export REVISION CHANGED CREATED VERSION SOURCE=

# compose ENVIRONMENT ARGUMENT...
compose() { docker compose --project-name "$name-$1" --file "compose/$1.yaml" "${@:2}"; }
down() { compose "$1" --progress=quiet down --volumes --timeout 0; }

clean() {
    down test
    down release
    docker image ls --quiet --filter "label=seatrial.checkout=$name" | sort -u |
        xargs --no-run-if-empty docker image rm --force
    rm -rf "$target"
}

start() { # ENVIRONMENT SERVICE...
    local containers=("${@:2}")
    containers=("${containers[@]/#/$name-$1-}")
    docker start "${containers[@]/%/-1}"
}

# run ENVIRONMENT SERVICE: a service that ends by itself; fails if it does
run() { docker start --attach "$name-$1-$2-1"; }

# report ENVIRONMENT SERVICE NAME: of the tests that this service ran
report() { docker cp --quiet "$name-$1-$2-1:/reports/$3.xml" "$target/reports/$2.xml"; }

# poll COMMAND...: until it succeeds, for a minute at most
poll() {
    local end=$((SECONDS + 60))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "not ready: $*" >&2; return 1; }
        sleep 0.02
    done
}

# shellcheck disable=SC2016  # the container's variables
database_ready() { # ENVIRONMENT
    docker exec "$name-$1-db-1" sh -c 'PGPASSWORD=$POSTGRES_PASSWORD psql --host=db \
        --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --no-psqlrc --command="SELECT 1"'
}

application_ready() (
    exec 3<>"/dev/tcp/${address/://}"
    printf 'GET /healthz HTTP/1.1\r\nHost: nginx\r\nConnection: close\r\n\r\n' >&3
    grep --fixed-strings "$REVISION" <&3
)

# Python index and private CA of whoever runs this, for the builds.
if [ ! -e "$PIP_CONF" ]; then
    "${PYTHON:-python3}" -c 'import os, pathlib; from tasks.engine import buildsecrets
buildsecrets.write(pathlib.Path(os.environ["PIP_CONF"]).parent, os.environ)'
fi
if [ "${1:-}" = clean ]; then
    clean
    exit
fi
trap 'down test; down release' EXIT
rm -rf "$EXPORT_FOLDER"
mkdir -p "$target/reports"

# Contexts are relative to where bake is called.
(cd compose && docker buildx bake --file images.yaml --progress plain \
    db nginx wheelhouse test acceptance app)

compose test create db unit integration
start test db
run test unit
report test unit unit
poll database_ready test
run test integration
report test integration integration

compose release create db collectstatic migrate app nginx test test-restarted
start release db
run release collectstatic
poll database_ready release
run release migrate
start release app nginx
address=$(docker port "$name-release-nginx-1" 8080/tcp)
poll application_ready
run release test
report release test acceptance
docker restart --timeout 0 "$name-release-app-1"
poll application_ready
run release test-restarted
report release test-restarted acceptance
