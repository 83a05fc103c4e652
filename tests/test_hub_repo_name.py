"""Names of hub repositories, and of their folders in the hub cache."""

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from qgguf.hub.repo_name import folder_of_repo, is_repo_name, repo_of_folder

owner = st.text("aZ9_-.", min_size=1, max_size=6)
name_part = owner | st.text("a.", min_size=95, max_size=98)
valid = st.from_regex(r"[a-z0-9]{1,3}([-._][a-zA-Z0-9]{1,3}){0,3}/[A-Z]{1,3}([-._][a-z0-9]{2,3}){0,3}", fullmatch=True)


def is_valid_for_huggingface_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@given(st.tuples(owner, name_part).map("/".join) | valid | st.sampled_from(["a/b.git", "a.git/b", "a/b/c", "a", ""]))
@example("a/" + "b" * 96)
@example("a/" + "b" * 97)
@example("a" * 96 + "/b")
@example("a-/b")
@example("a/-b")
@example("a/_b_")
@example("a/b.-c")
def test_rule_is_that_of_huggingface_hub(name: str):
    """With an owner, a name is valid for us exactly when it is valid for huggingface-hub.

    Older releases accept three things that the hub refuses: a longer owner, letters beyond ASCII, a newline at the end.
    """
    assert is_repo_name(name) == ("/" in name and is_valid_for_huggingface_hub(name))


@pytest.mark.parametrize(
    "name", ["é/한", "a/b\n", "a" * 97 + "/b", "../x", "a/b--c", "a/b..c", "gpt2", "-a/b", "/b", "a/"]
)
def test_invalid_name_is_refused(name: str):
    """Letters beyond ASCII, long owners, a dot or dash twice or at an end, and no owner at all are refused."""
    assert not is_repo_name(name)


@given(valid.filter(lambda name: not name.endswith(".git")))
def test_folder_name_leads_back_to_its_repository(name: str):
    """The folder's name holds the whole name of the repository."""
    assert "/" not in folder_of_repo(name)
    assert repo_of_folder(folder_of_repo(name)) == name


@pytest.mark.parametrize(
    "folder", ["models--gpt2", "datasets--a--b", "models--a--b--c", "a--b", ".locks", "models----b"]
)
def test_folder_of_no_repository_is_none(folder: str):
    """Folders of datasets, of models without an owner and of other names are not repositories."""
    assert repo_of_folder(folder) is None
