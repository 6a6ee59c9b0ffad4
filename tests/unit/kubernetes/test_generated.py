"""What is generated from tables is as it would be generated now, and the operator's rights are no more than we say."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from kapstan.cli.crds import command
from kapstan.controllers import rbac

ROOT = Path(__file__).parents[3]


def test_the_chart_and_crds_are_up_to_date() -> None:
    result = CliRunner().invoke(command, ["--check", "--root", str(ROOT)])
    assert result.exit_code == 0, result.output


def test_a_stale_file_is_named(tmp_path: Path) -> None:
    assert CliRunner().invoke(command, ["--write", "--root", str(tmp_path)]).exit_code == 0
    stale = tmp_path / "charts" / "kapstan" / "files" / "rules-operator.yaml"
    stale.write_text("")
    result = CliRunner().invoke(command, ["--check", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert str(stale) in result.output
    assert "kapstan crds --write" in result.output


def test_nobody_reads_secrets_or_enters_pods() -> None:
    for rights in rbac.TABLE.values():
        for right in rights:
            assert "*" not in right.resources + right.verbs
            assert not {"secrets", "pods/exec", "pods/attach", "serviceaccounts/token"} & set(right.resources)
            assert not {"escalate", "bind", "impersonate"} & set(right.verbs)


def test_users_change_runs_only() -> None:
    changed = {resource for right in rbac.USER for resource in right.resources if set(right.verbs) & set(rbac.WRITE)}
    assert changed == {"flowruns"}
