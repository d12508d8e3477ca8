from pathlib import Path

from cluster.packages import NAMES, collisions, installed_collisions, shadows

HOME = Path("/srv/rloop")
FOLDERS: dict[str, Path | None] = {name: HOME / name for name in NAMES}


def test_names_that_are_ours_alone_are_fine() -> None:
    assert collisions({}, FOLDERS, HOME) == []  # an editable install lists no owner
    assert collisions({name: ["rloop"] for name in NAMES}, FOLDERS, HOME) == []


def test_a_second_owner_is_named() -> None:
    (sentence,) = collisions({"verifiers": ["rloop", "verifiers"]}, FOLDERS, HOME)
    assert sentence.startswith("package 'verifiers' is also provided by the distribution verifiers")
    assert "make setup" in sentence


def test_a_name_that_resolves_elsewhere_is_shown_with_both_places() -> None:
    (sentence,) = collisions({}, FOLDERS | {"trainer": Path("/tmp/trainer")}, HOME)
    assert "package 'trainer' resolves to /tmp/trainer instead of /srv/rloop/trainer" in sentence
    (sentence,) = collisions({}, FOLDERS | {"actors": None}, HOME)
    assert "resolves to nothing" in sentence


def test_this_environment_is_clean() -> None:
    assert installed_collisions() == []


def test_a_module_in_the_current_directory_that_ray_would_import_instead_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollout").mkdir()
    assert shadows(tmp_path, HOME) == []  # a plain folder is no module
    (tmp_path / "rollout" / "__init__.py").touch()
    (tmp_path / "trainer.py").touch()
    first, second = shadows(tmp_path, HOME)
    assert first.startswith(f"{tmp_path / 'rollout' / '__init__.py'} would be imported instead of RLoop's package")
    assert "trainer.py" in second
    assert shadows(tmp_path, tmp_path) == []  # our own checkout
