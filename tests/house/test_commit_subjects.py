"""The check of commit subjects finds what CONTRIBUTING.md does not allow."""

import runpy
import subprocess
import sys

import pytest


@pytest.fixture
def repository(root, tmp_path):
    """`repository("subject", ...)` is a copy of the script in a repository of these commits, oldest first."""

    def make(*subjects):
        (tmp_path / "scripts").mkdir()
        script = tmp_path / "scripts" / "commit_subjects.py"
        script.write_text((root / "scripts" / "commit_subjects.py").read_text(encoding="utf-8"), encoding="utf-8")
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        for subject in subjects:
            command = ["git", *identity, "commit", "-q", "--allow-empty", "-m", subject]
            subprocess.run(command, cwd=tmp_path, check=True)
        return script

    return make


def checked(script, *arguments):
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_subject_of_90_characters_fails(repository):
    subject = "Add " + "a" * 86
    done = checked(repository("Start", subject))
    assert done.returncode == 1
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == [subject, "   90 characters, at most 72"]


def test_subjects_by_the_rule_pass(repository):
    done = checked(repository("Start", "Add " + "a" * 68))
    assert (done.returncode, done.stdout) == (0, "2 commit subjects keep the rule of CONTRIBUTING.md\n")


def test_the_check_starts_at_the_newest_release(repository):
    script = repository("wip", "Release 0.1.0")
    subprocess.run(["git", "tag", "v0.1.0"], cwd=script.parent, check=True)
    assert checked(script).stdout == "0 commit subjects keep the rule of CONTRIBUTING.md\n"
    assert checked(script, "HEAD~1").stdout == "1 commit subjects keep the rule of CONTRIBUTING.md\n"


def test_a_base_that_does_not_exist_is_one_sentence(repository):
    done = checked(repository("Start"), "v9")
    assert done.returncode == 1
    assert done.stderr.startswith("git log --format=%h %s v9..HEAD failed: fatal: ambiguous argument 'v9..HEAD'")


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        ("feat: add a loss", "has a prefix"),
        ("fix(data)!: read folders", "has a prefix"),
        ("fixup! Add a loss", "unfinished"),
        ("WIP", "unfinished"),
        ("add a loss", "does not start with a capital letter"),
        ("Add a loss; rename a teacher", "joins several ideas with ';'"),
        ("Add a loss.", "ends with a full stop"),
    ],
)
def test_each_fault_is_named(root, subject, fault):
    faults = runpy.run_path(str(root / "scripts" / "commit_subjects.py"))["faults"]
    assert list(faults(subject)) == [fault]
