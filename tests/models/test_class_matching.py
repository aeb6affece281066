from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import ClassSpaceError, RecipeError
from distillkit.models import ClassMap, imagenet_class_names, match_classes, read_class_names

REMEDIES = (
    "give --data a folder with class names of the teacher, use --unlabeled DIR without labels to train a student for "
    "the teacher's classes, or fine-tune the teacher on this data "
    "(distillkit finetune {teacher} --data DIR) and use --teacher run:DIR"
)
NAMES_OF_THE_TEACHER = "class names of the teacher"


def teacher_of(names=None, classes=None, name="vit-b"):
    return ModelSpec(
        name=name,
        architecture="x",
        kind="vit",
        classes=len(names) if classes is None else classes,
        signals=frozenset({Signal.LOGITS}),
        image_size=(32, 32),
        class_names=names,
    )


def match(teacher, names, classes=None, mode="auto", data="flowers"):
    return match_classes(teacher, names, len(names) if classes is None else classes, mode=mode, data=data)


def refused(*arguments, **options):
    with pytest.raises(ClassSpaceError) as error:
        match(*arguments, **options)
    return str(error.value)


class_names = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=12, unique=True)


@given(class_names)
def test_equal_names_are_the_identity(names):
    assert match(teacher_of(tuple(names)), names) == ClassMap(None)


@given(class_names, st.randoms(use_true_random=False), st.integers(1, 12))
def test_any_subset_in_any_order_is_matched_by_name(names, random, count):
    subset = random.sample(names, min(count, len(names)))
    teacher = teacher_of(tuple(names))
    class_map = match(teacher, tuple(subset))
    mapped = class_map.apply(teacher)
    assert mapped.class_names == tuple(subset)
    assert mapped.classes == len(subset)
    assert (class_map.indices is None) == (subset == names)
    if class_map.indices is not None:
        assert [names[index] for index in class_map.indices] == subset


@given(class_names, st.integers(0, 12))
def test_an_unknown_class_name_is_refused(names, position):
    with_unknown = [*names[:position], "zzz", *names[position:]]
    with pytest.raises(ClassSpaceError, match="'zzz'"):
        match(teacher_of(tuple(names)), with_unknown)


@given(st.integers(1, 2000), st.booleans(), st.sampled_from(["auto", "index"]))
def test_equal_class_counts_without_names_are_the_identity(classes, teacher_is_named, mode):
    names = tuple(map(str, range(classes)))
    teacher, data = (teacher_of(names), None) if teacher_is_named else (teacher_of(classes=classes), names)
    assert match(teacher, data, classes, mode=mode) == ClassMap(None)


def test_case_and_underscores_do_not_matter():
    teacher = teacher_of(("Sea_Horse", "ant", "bee"))
    assert match(teacher, ("BEE", "sea horse")) == ClassMap((2, 0))


def test_an_exact_match_comes_before_a_normalised_one():
    assert match(teacher_of(("Ant", "ant", "bee")), ("ant",)) == ClassMap((1,))


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (("n01443537", "n01440764"), (1, 0)),
        (("tench", "goldfish"), (0, 1)),
        (("Carassius_auratus", "Tinca tinca"), (1, 0)),
        (("great_white_shark", "n01440764"), (2, 0)),
    ],
)
def test_imagenet_classes_match_by_wordnet_id_and_by_description(names, indices):
    assert match(teacher_of(imagenet_class_names()), names) == ClassMap(indices)


def test_a_subset_of_imagenet_matches_by_description_too():
    assert match(teacher_of(("n01443537", "n01440764")), ("tench",)) == ClassMap((1,))


def test_imagenet_has_a_thousand_wordnet_ids_in_the_usual_order():
    names = imagenet_class_names()
    assert (len(names), len(set(names)), names[0], names[-1]) == (1000, 1000, "n01440764", "n15075141")


def test_a_name_of_two_classes_is_refused():
    assert refused(teacher_of(imagenet_class_names()), ("crane", "tench")) == (
        "class 'crane' of data 'flowers' matches several classes of teacher 'vit-b': n02012849, n03126707; "
        "use one of these names"
    )


def test_two_names_of_one_class_are_refused():
    assert refused(teacher_of(imagenet_class_names()), ("tench", "goldfish", "n01440764")) == (
        "classes 'tench' and 'n01440764' of data 'flowers' are the same class of teacher 'vit-b' (n01440764); "
        "merge them"
    )


def test_imagenet_teacher_and_other_data():
    teacher = teacher_of(imagenet_class_names(), name="regnety16gf")
    assert refused(teacher, tuple("0123456789"), data="digits") == (
        "teacher 'regnety16gf' knows 1,000 ImageNet classes and data 'digits' has 10 classes; the teacher does not "
        "know class '0'; "
        + REMEDIES.format(teacher="regnety16gf").replace(
            NAMES_OF_THE_TEACHER, f"{NAMES_OF_THE_TEACHER}, as WordNet IDs or words"
        )
    )


def test_an_unknown_class_is_reported_before_an_ambiguous_one():
    sentence = refused(teacher_of(imagenet_class_names()), ("crane", "unicorn"))
    assert "and data 'flowers' has 2 classes; the teacher does not know class 'unicorn'; " in sentence


def test_a_teacher_from_a_run_is_fine_tuned_by_its_directory():
    sentence = refused(teacher_of(("ant", "bee"), name="run:runs/ants"), ("cat",))
    assert "(distillkit run --from runs/ants --loss ce --data DIR) and use --teacher run:DIR" in sentence


def test_equal_class_counts_and_other_names_offer_the_index():
    assert refused(teacher_of(("ant", "bee", "cat")), ("dog", "emu", "fox")) == (
        "teacher 'vit-b' knows 3 classes and data 'flowers' has 3 classes with other names (ant, bee, ... and dog, "
        'emu, ...); if they are the same classes in the same order, set teacher.class_map = "index", else '
        + REMEDIES.format(teacher="vit-b")
    )
    assert match(teacher_of(("ant", "bee", "cat")), ("dog", "emu", "fox"), mode="index") == ClassMap(None)


def test_index_needs_equal_class_counts():
    assert refused(teacher_of(("ant", "bee")), ("ant",), mode="index") == (
        "teacher 'vit-b' knows 2 classes and data 'flowers' has 1 class; "
        'teacher.class_map = "index" needs equal numbers of classes, "auto" matches by name'
    )


def test_teacher_without_class_names_is_offered_a_file_of_them():
    assert refused(teacher_of(classes=5), ("ant", "bee")) == (
        "teacher 'vit-b' knows 5 classes and data 'flowers' has 2 classes; list the teacher's class names in a file "
        "(teacher.classes), " + REMEDIES.format(teacher="vit-b")
    )


def test_data_without_class_names():
    assert refused(teacher_of(("ant", "bee")), None, 3) == (
        "teacher 'vit-b' knows 2 classes and data 'flowers' has 3 classes; " + REMEDIES.format(teacher="vit-b")
    )


def test_map_of_a_teacher_without_class_names():
    teacher = teacher_of(classes=5)
    assert ClassMap((3, 1)).apply(teacher) == replace(teacher, classes=2)
    assert ClassMap(None).apply(teacher) is teacher


def test_class_name_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("ant\n bee \n\ncat\n", encoding="utf-8")
    assert read_class_names(path) == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no class name file {path}; check teacher.classes"),
        ("\n \n", "{path} lists no classes; write one name per line, in the order of the teacher's outputs"),
        ("ant\nbee\nant\n", "{path} lists class 'ant' twice; list each class once"),
    ],
)
def test_invalid_class_name_file(tmp_path, content, sentence):
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        read_class_names(path)
    assert str(error.value) == sentence.format(path=path)
