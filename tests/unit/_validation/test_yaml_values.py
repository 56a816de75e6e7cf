import pytest
import yaml

from fewer._validation.yaml_values import read_values


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "1.e-3", "+1e-3", ".1e-2", "0.001"])
def test_a_number_may_be_written_as_in_python(text):
    assert read_values(text, "it") == 0.001
    assert read_values(f"[{text}, {{a: {text}}}]", "it") == [0.001, {"a": 0.001}]


@pytest.mark.parametrize(
    "text",
    ["3", "-1.5", "true", "auto", "null", "e-3", "1e", "1e-3x", "'1e-3'", "2024-01-01", "[]"],
)
def test_all_else_is_yaml(text):
    assert read_values(text, "it") == yaml.safe_load(text)


def test_invalid_yaml_and_objects_are_refused_with_their_origin():
    with pytest.raises(ValueError, match=r"recipe\.yaml is not valid YAML: while parsing"):
        read_values("{a: ", "recipe.yaml")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        read_values("!!python/object/apply:os.getcwd []", "recipe.yaml")


def test_deeply_nested_yaml_is_refused_with_its_origin():
    with pytest.raises(ValueError, match="--set"):
        read_values("[" * 100_000, "--set x")
