"""Bad input to `quadloom export`: the message names the cause with its value, and the remedy; status 1."""

import json
import shutil

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification

from quadloom_export.commands.export import parse_numbers
from quadloom_export.model import find_layers, find_targets
from quadloom_export.settings import FamilySettings, check_settings, member_keys
from quadloom_runtime.cli import main
from quadloom_runtime.errors import QuadloomError


@pytest.fixture(scope="module")
def source(make_model_folder):
    return make_model_folder("bert", layers=2)


def refusal(capsys, *words):
    """What the command prints when it refuses."""
    assert main(["export", *map(str, words)]) == 1
    text = capsys.readouterr().err
    assert "\nquadloom export: " in f"\n{text}", "transformers may have drawn a progress bar before"
    assert "\n  remedy: " in text
    assert "Traceback" not in text
    return text


def test_weights_of_an_unknown_kind(capsys, source, tmp_path):
    with pytest.raises(SystemExit):
        main(["export", str(source), "--out", str(tmp_path / "family"), "--weights", "int4"])
    text = capsys.readouterr().err
    assert "--weights: invalid choice: 'int4'" in text
    assert "float32" in text
    assert "int8" in text
    with pytest.raises(QuadloomError, match="weights cannot be stored as 'int4'") as caught:
        check_settings(FamilySettings(weights="int4"))
    assert "float32, int8" in caught.value.remedy


@pytest.mark.parametrize(
    ("options", "cause", "remedy"),
    [
        (["--depths", "0,3"], "depth 3 is outside 0..2: the model has 2 layers", "0-2"),
        (["--depths", "one"], "--depths 'one' is not a list of numbers", "e.g. 0,2,4-6"),
        (["--depths", "2-1"], "--depths '2-1'", "e.g. 0,2,4-6"),
        (["--depths", "1,,2"], "--depths '1,,2'", "e.g. 0,2,4-6"),
        (["--quantized", "-1"], "--quantized '-1'", "e.g. 0,2,4-6"),
        (["--depths", "0-1", "--quantized", "2"], "2 quantized layers exceed the largest depth 1", "q <= d"),
        (["--target-modules", "query,gate"], "no linear module named 'gate'", "all-linear"),
        (["--sequence-length", "33"], "sequence length 33 is outside 2..32", "--sequence-length"),
        (["--sequence-length", "1"], "sequence length 1 is outside 2..32", "--sequence-length"),
        (["--rank", "0"], "rank 0 is too small", "1 or more"),
        (["--num-labels", "1"], "num labels 1 is too small", "2 or more"),
        (["--batch-size", "0"], "batch size 0 is too small", "1 or more"),
        (["--recompute", "0,some"], "--recompute '0,some' is not a list of shares", "e.g. 0.03,0.3"),
        (["--recompute", ""], "--recompute '' is not a list of shares", "e.g. 0.03,0.3"),
        (["--recompute", "0.03,1.5"], "recompute share 1.5 is outside 0..1", "0.03 for 3 %"),
        (["--recompute", "nan"], "recompute share nan is outside 0..1", "0.03 for 3 %"),
        (["--recompute", "0.034"], "recompute share 0.034 is not a whole percent", "use 0.03,"),
        (["--recompute", "0.3,0.03,0.30"], "recompute share 0.3 is given twice", "every share once"),
        (["--group-size", "-4"], "group size -4 is too small", "1 or more"),
        (["--alpha", "0"], "alpha 0.0 is not positive", "2 * rank"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_do_not_fit_the_model(capsys, source, tmp_path, options, cause, remedy):
    # argparse would take a value that starts with a dash for an option.
    given = {"--sequence-length": "16"} | dict(zip(options[::2], options[1::2], strict=True))
    joined = [f"{name}={value}" for name, value in given.items()]
    text = refusal(capsys, source, "--out", tmp_path / "family", *joined)
    assert cause in text
    assert remedy in text.split("remedy: ")[1]
    assert not (tmp_path / "family").exists(), "a refused export leaves nothing behind"


def test_a_missing_model_folder(capsys, tmp_path):
    text = refusal(capsys, tmp_path / "nowhere", "--out", tmp_path / "family")
    assert str(tmp_path / "nowhere") in text
    assert "config.json" in text


def test_a_folder_without_weights(capsys, source, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    (folder / "model.safetensors").unlink()
    assert f"from the folder '{folder}'" in refusal(capsys, folder, "--out", tmp_path / "family")


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet", "deberta"])
def test_a_model_folder_without_a_tokenizer(capsys, make_model_folder, tmp_path, name):
    """transformers may make up a tokenizer that knows no word; that must not pass for one."""
    source, folder = make_model_folder(name, layers=1), tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, folder)
    text = refusal(capsys, folder, "--out", tmp_path / "family", "--sequence-length", 16)
    assert f"no tokenizer in '{folder}'" in text
    assert "tokenizer.json" in text.split("remedy: ")[1]


def test_a_tokenizer_without_a_padding_token(capsys, source, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    text = refusal(capsys, folder, "--out", tmp_path / "family", "--sequence-length", 16)
    assert f"the tokenizer of '{folder}' has no padding token" in text


@pytest.mark.parametrize(("name", "positions"), [("roberta", 31), ("mpnet", 30)])
def test_positions_up_to_the_padding_row_are_not_counted(capsys, make_model_folder, tmp_path, name, positions):
    """Both number tokens from behind the padding row of a table of 32, which is row 0 here and row 1 in any MPNet."""
    words = [make_model_folder(name, layers=1), "--out", tmp_path / "family", "--depths", "0", "--batch-size", "2"]
    too_long = refusal(capsys, *words, "--sequence-length", positions + 1)
    assert f"sequence length {positions + 1} is outside 2..{positions}" in too_long
    assert main(["export", *map(str, words), f"--sequence-length={positions}"]) == 0


def test_a_model_that_shares_its_layers(capsys, source, tmp_path):
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=70,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
    )
    AlbertForSequenceClassification(config).save_pretrained(tmp_path / "albert")
    for file in source.glob("*token*"):
        shutil.copy(file, tmp_path / "albert")
    text = refusal(capsys, tmp_path / "albert", "--out", tmp_path / "family")
    assert "the model ran 3 layers where its module list holds 1" in text
    assert "ALBERT" in text.split("remedy: ")[1]


def test_a_model_without_a_list_of_layers():
    with pytest.raises(QuadloomError, match="the layers of Sequential cannot be found") as caught:
        find_layers(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert "BERT" in caught.value.remedy


def test_the_remedy_for_an_unknown_target_lists_the_linear_modules():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(4, 4), "down": nn.Linear(4, 4)})])})
    with pytest.raises(QuadloomError, match="'sideways'") as caught:
        find_targets(model, ("layers.0",), ("sideways",))
    assert "down, up" in caught.value.remedy


@pytest.mark.parametrize("settings", [FamilySettings(depths=()), FamilySettings(depths=(1, 2), quantized=())], ids=str)
def test_settings_that_select_no_member_are_refused(settings):
    with pytest.raises(QuadloomError, match="select no member"):
        member_keys(settings, layers=2)


def test_a_family_without_a_recompute_share_is_refused():
    with pytest.raises(QuadloomError, match="no recompute share"):
        check_settings(FamilySettings(recompute=()))


def test_every_whole_percent_is_a_recompute_share():
    for percent in range(101):
        settings = FamilySettings(recompute=(percent / 100,))
        check_settings(settings)
        assert settings.recompute_percents == (percent,)


def test_every_depth_but_the_heads_has_members_of_every_recompute_budget():
    settings = FamilySettings(recompute=(0.3, 0.03), quantized=(0, 2))
    assert [key.stem for key in member_keys(settings, layers=2)] == [
        "d00-q00",
        "d01-q00-r03",
        "d01-q00-r30",
        "d02-q00-r03",
        "d02-q02-r03",
        "d02-q00-r30",
        "d02-q02-r30",
    ]


def test_other_bits_than_eight_and_four_are_refused():
    with pytest.raises(QuadloomError, match="5 bits"):
        check_settings(FamilySettings(bits=5))


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", (0,)), ("0,2,4-6", (0, 2, 4, 5, 6)), ("3,1,1", (1, 3)), ("2-2", (2,))]
)
def test_lists_of_numbers_and_ranges(text, numbers):
    assert parse_numbers(text, option="--depths") == numbers


@pytest.mark.parametrize(("bits", "budget"), [(8, 0.05), ("auto", 0.0), ("auto", 1.5)])
def test_an_error_budget_is_a_share_and_for_chosen_bits(bits, budget):
    with pytest.raises(QuadloomError, match="error budget"):
        check_settings(FamilySettings(bits=bits, error_budget=budget))
