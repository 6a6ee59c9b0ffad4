"""``python -m tests.cluster``: bring the test cluster up, look at it, put an image on it, take it down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import packages, provider, tools
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.progress import Progress


def main(words: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(words)
    try:
        return int(chosen.command(chosen))
    except (ClusterUnavailable, CommandFailed) as failure:
        print(f"tests.cluster: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tests.cluster: interrupted; the next `up` or `down` removes what is left", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="A real Kubernetes for the tests: the one named by KAPSTAN_TEST_KUBECONFIG, else kind where docker "
        "runs, else a node of its own on this machine (root, Linux).",
        epilog="KAPSTAN_TEST_CACHE: programs and images (default ~/.cache/kapstan/cluster). "
        "KAPSTAN_TEST_STATE: the running cluster (default /tmp/kapstan-test-cluster-UID). "
        "KAPSTAN_TEST_REGISTRY, KAPSTAN_TEST_HOST_ADDRESS: for a named cluster, where images are pushed to and how "
        "pods reach this machine.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring a cluster up; it stays until `down`")
    up.add_argument(
        "--install", action="store_true", help="install missing system packages by apt-get; CI=true does so, too"
    )
    up.set_defaults(command=_up)
    down = commands.add_parser("down", help="take it down, and remove what a run that died has left")
    down.add_argument("--force", action="store_true", help="even while a test run uses it")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", help="say whether it is up; ends with 0 if it is, else with 3")
    status.set_defaults(command=_status)
    image = commands.add_parser("image", help="build an image and put it on the cluster that is up")
    image.add_argument("context", type=Path, help="directory that the Dockerfile copies from")
    image.add_argument("-f", "--file", type=Path, help="the Dockerfile (default: CONTEXT/Dockerfile)")
    image.add_argument("-t", "--tag", required=True)
    image.add_argument("--target", help="stage of the Dockerfile")
    image.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    image.set_defaults(command=_image)
    build = commands.add_parser("tools", help="build programs into the cache and print their paths")
    build.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(tools.TOOLS)}; default: all that a node needs"
    )
    build.set_defaults(command=_tools)
    return parser


def _up(chosen: argparse.Namespace) -> int:
    progress = Progress()
    cluster = provider.up(packages.may_install(chosen.install), progress)
    progress.total(f"cluster ({cluster.provider}) is up")
    _show(cluster)
    return 0


def _down(chosen: argparse.Namespace) -> int:
    progress = Progress()
    found = provider.down(chosen.force, progress)
    progress.total("cluster is down" if found else "there is no cluster; nothing changed")
    return 0


def _status(_: argparse.Namespace) -> int:
    record, cluster = provider.status()
    if cluster is not None:
        kept = record is not None and record.kept
        print(f"cluster ({cluster.provider}) is up{', kept until `down`' if kept else ''}")
        _show(cluster)
        return 0
    print("no cluster is up" if record is None else "the cluster is not whole; `up` or `down` cleans up")
    return 3


def _image(chosen: argparse.Namespace) -> int:
    _, cluster = provider.status()
    if cluster is None:
        raise ClusterUnavailable("no cluster is up; `python -m tests.cluster up` first")
    wrong = [pair for pair in chosen.build_arg if "=" not in pair]
    if wrong:
        raise ClusterUnavailable(f"--build-arg {wrong[0]}: write NAME=VALUE")
    arguments = dict(pair.split("=", 1) for pair in chosen.build_arg)
    dockerfile = chosen.file or chosen.context / "Dockerfile"
    progress = Progress()
    with progress.step(f"build and load {chosen.tag}"):
        reference = cluster.load_image(
            dockerfile, tag=chosen.tag, context=chosen.context, target=chosen.target, build_args=arguments
        )
    print(reference)
    return 0


def _tools(chosen: argparse.Namespace) -> int:
    names = chosen.names or tools.NODE_TOOLS
    unknown = [name for name in names if name not in tools.TOOLS]
    if unknown:
        raise ClusterUnavailable(f"unknown tool {unknown[0]}; known are {', '.join(tools.TOOLS)}")
    tools.ensure(names, Progress())
    for name in names:
        print(tools.path(name))
    return 0


def _show(cluster: Cluster) -> None:
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"# pods reach this machine at {cluster.host_address or 'an address that is not known'}")


if __name__ == "__main__":
    sys.exit(main())
