"""Config: every knob survives being written and read, and each bad value is told by its key."""

import contextlib
import tomllib
from pathlib import Path

import pytest

from flows.settings import resolve
from pipeline.config import Config, commented_toml, make_config, read_config_file
from pipeline.errors import InputError
from pipeline.opening import create_store
from pipeline.sections import Section
from tests.helpers import IDENTITY, make_store

# A value for every knob, each another than its default.
CHANGED = """
store = "s"
sources = ["a", "b/c"]
scan = {settle_seconds = 0.5, decode_seconds = 2, max_pixels = 1000, poll_seconds = 9}
index = {kind = "ivf-pq", memory_mb = 7, recall = 0.5}
[run]
engine = "ray"
ray_address = "ray://head:10001"
ray_workers = 4
num_cpus = 0.5
num_gpus = 2
store_url = "http://n"
shard_rows = 1
part_rows = 2
compact_after = 5
decode_workers = 3
stall_seconds = 8
[encoder]
model = "local-dir:m"
device = "cuda:1"
precision = "fp16"
batch_size = 7
compile = true
decode = "exact"
[labels]
label_set = 'dog,"cat"\\'
template = "an eye with {}"
top_k = 2
abstain_below = 0.25
refine = "anchored"
unknown = "mcm"
unknown_above = 0.5
[select]
policy = "top-k"
min_confidence = 1
max_per_class = 3
share = 0.25
per_class = 4
floor = 0
min_members = 9
duplicate_cosine = 0.5
split_by = "folder"
valid_share = 0.1
truth = "t.csv"
[api]
host = "::1"
port = 1
hosts = ["proxy.example"]
max_upload_mb = 0.5
max_files = 2
max_pixels = 3
decode_seconds = 4
upload_seconds = 5
max_waiting = 6
max_uploads = 7
batch = 8
batch_ms = 9
thumbnail = 16
follow_seconds = 0.1
[caption]
model = "local-dir:c"
batch_size = 3
sample = true
seed = 4
commit_seconds = 0
[train]
every_run = false
heads = "mlp,linear"
pull = 2
fusion = "gated"
loss = "generalised"
soft_targets = true
mixup = 0.5
pair_loss = "triplet"
context_tokens = 7
side_text = "file-name"
side_columns = "side.csv"
side_use = "lat,lon"
allow_leakage = true
hidden = 1
dropout = 0
label_smoothing = 0.2
learning_rate = 1e-05
weight_decay = 0
batch_size = 2
max_epochs = 1
patience = 2
seed = 5
[metrics]
file = "copy.prom"
port = 9101
[notify]
on_failure = "mail -s failed me"
on_drift = ["sh", "-c", "cat > 'a file'"]
drift = "strong"
timeout_seconds = 5.5
tries = 2
"""


def test_a_written_config_reads_back_the_same() -> None:
    default, changed = Config(), make_config(tomllib.loads(CHANGED))
    for config in (default, changed):
        assert make_config(tomllib.loads(commented_toml(config))) == config
    same = [
        f"{name}.{knob}"
        for name, section in default
        for knob, value in (section if isinstance(section, Section) else [])
        if getattr(getattr(changed, name), knob) == value
    ]
    assert same == []  # or the round trip would not show that a knob is written


@pytest.mark.parametrize("name", ['a "quoted" folder', "back\\slash", "two\nlines", "tab\t", "ü"])
def test_any_folder_name_survives_being_written(name: str) -> None:
    config = make_config({"store": name, "sources": [name]})
    assert make_config(tomllib.loads(commented_toml(config))) == config


def test_every_knob_says_what_it_means() -> None:
    top, *sections = commented_toml(Config()).split("\n[")
    blocks = {"": top, **dict(text.split("]\n") for text in sections)}
    for name, value in Config():
        fields = type(value).model_fields if isinstance(value, Section) else {}
        for knob, field in (fields or {name: Config.model_fields[name]}).items():
            lines = blocks[name if fields else ""].splitlines()
            (line,) = [line for line in lines if line.startswith(f"{knob} = ")]
            assert field.description
            assert line.endswith(f"  # {field.description}")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stor": "x"}, "options: stor: there is no such key"),
        ({"scan": {"settle": 3}}, r"options: scan\.settle: there is no such key"),
        ({"scan": 3}, "options: scan = 3: "),
        ({"scan": {"settle_seconds": -1}}, r"scan\.settle_seconds = -1: .* or equal to 0"),
        ({"scan": {"settle_seconds": float("nan")}}, r"scan\.settle_seconds = nan: "),
        ({"scan": {"settle_seconds": float("inf")}}, r"scan\.settle_seconds = inf: "),
        ({"scan": {"settle_seconds": 1e15}}, r"scan\.settle_seconds = "),  # no date is that old
        ({"scan": {"max_pixels": 0}}, r"scan\.max_pixels = 0: .* or equal to 1"),
        ({"labels": {"abstain_below": 1.01}}, r"labels\.abstain_below = 1\.01: .* or equal to 1"),
        ({"labels": {"top_k": 0}}, r"labels\.top_k = 0: .* or equal to 1"),
        ({"labels": {"top_k": "many"}}, r"labels\.top_k = 'many': .*integer"),
        ({"select": {"duplicate_cosine": 0}}, r"select\.duplicate_cosine = 0: .* greater than 0"),
        ({"select": {"valid_share": 1}}, r"select\.valid_share = 1: .* less than 1"),
        ({"encoder": {"device": "tpu"}}, r"encoder\.device = 'tpu': .*auto\|cpu\|cuda"),
        ({"encoder": {"precision": "fp8"}}, r"encoder\.precision = 'fp8': .*'bf16'"),
        ({"train": {"learning_rate": float("inf")}}, r"train\.learning_rate = inf: "),
        ({"train": {"batch_size": 1}}, r"train\.batch_size = 1: .* or equal to 2"),
        ({"store": ""}, "store = '': "),
        ({"sources": "photos"}, "sources = 'photos': "),
        ({"sources": [""]}, r"sources\.0 = '': "),  # or it would be the working folder
    ],
)
def test_a_bad_value_is_told_with_its_key_and_what_is_allowed(
    values: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        make_config(values)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InputError) as told:
        make_config({"run": {"shard_rows": 0}, "train": {"hidden": 0, "height": 2}})
    assert len(str(told.value).splitlines()) == 3


def test_relative_paths_count_from_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "pseudolabel.toml"
    file.write_text(
        'store = "out"\nsources = ["in", "/photos", "s3://bucket/x", "~/p"]\n'
        '[encoder]\nmodel = "local-dir:clip"\n[labels]\nlabel_set = "sub/l.toml"\n'
        '[select]\ntruth = "true"\n[train]\nside_text = "t.csv"\nside_columns = "c.parquet"\n'
    )
    config = make_config(read_config_file(file))
    assert config.store == str(tmp_path / "out")
    home = str(Path("~/p").expanduser())
    assert config.sources == (str(tmp_path / "in"), "/photos", "s3://bucket/x", home)
    assert config.encoder.model == f"local-dir:{tmp_path}/clip"
    assert config.labels.label_set == str(tmp_path / "sub/l.toml")
    assert config.select.truth == str(tmp_path / "true")
    assert config.train.side_text == str(tmp_path / "t.csv")
    assert config.train.side_columns == str(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("ViT-B-32/b32.pt", "ViT-B-32/{}/b32.pt"),
        ("ViT-B-32/openai", "ViT-B-32/openai"),  # a tag: there is no such file
        ("local-dir:models/b32.pt", "local-dir:{}/models/b32.pt"),
        ("hf-hub:org/b32.pt", "hf-hub:org/b32.pt"),
    ],
)
def test_a_checkpoint_file_counts_from_the_config_file_too(
    tmp_path: Path, model: str, meant: str
) -> None:
    (tmp_path / "b32.pt").touch()
    (tmp_path / "c.toml").write_text(f'[encoder]\nmodel = "{model}"\n')
    values = read_config_file(tmp_path / "c.toml")
    assert make_config(values).encoder.model == meant.format(tmp_path)


@pytest.mark.parametrize(
    "line", ["store = 2024", "[labels]\nlabel_set = 3", "[encoder]\nmodel = 3", "sources = [7]"]
)
def test_a_number_for_a_name_is_taken_or_told_and_not_a_traceback(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "c.toml").write_text(line)
    with contextlib.suppress(InputError):
        make_config(read_config_file(tmp_path / "c.toml"))


def test_default_paths_count_from_the_config_file_and_names_are_no_path(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    config = make_config(read_config_file(tmp_path / "empty.toml"))
    assert config.store == str(tmp_path / "store")
    assert config.sources == (str(tmp_path / "images"),)
    assert config.labels.label_set == str(tmp_path / "labels.toml")
    (tmp_path / "names.toml").write_text(
        '[labels]\nlabel_set = "dog,cat"\n[train]\nside_text = "file-name"'
    )
    config = make_config(read_config_file(tmp_path / "names.toml"))
    assert (config.labels.label_set, config.train.side_text) == ("dog,cat", "file-name")
    assert config.encoder.model == Config().encoder.model


def test_a_bad_config_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    with pytest.raises(InputError, match=r"bad\.toml: cannot be read .No such file"):
        read_config_file(file)
    file.write_text("store = 'a'\n\nstore = 'b'\n")
    with pytest.raises(InputError, match=r"bad\.toml: not valid TOML: .*line 3"):
        read_config_file(file)
    file.write_text("[run]\nshard_rows = 0")
    with pytest.raises(InputError, match=r"bad\.toml: run\.shard_rows = 0"):
        read_config_file(file)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_later_settings_win(workplace: Path) -> None:
    (workplace / "pseudolabel.toml").write_text("[labels]\ntop_k = 2\nabstain_below = 0.2\n")
    assert resolve(None, {}).labels.top_k == 2  # found without being named
    given = {"labels.top_k": 3, "labels.abstain_below": None}
    config = resolve(None, given)
    assert (config.labels.top_k, config.labels.abstain_below) == (3, 0.2)
    config = resolve(None, given, ["labels.top_k=4", "labels.top_k = 5"])
    assert config.labels.top_k == 5
    (workplace / "other.toml").write_text("[labels]\ntop_k = 9\n")
    assert resolve(Path("other.toml"), {}).labels.abstain_below == 0.0  # one file, not two


def test_no_file_gives_the_defaults(workplace: Path) -> None:
    assert resolve(None, {}) == Config()
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read"):
        resolve(Path("nowhere.toml"), {})


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("store=out", "store", "out"),
        ('store="out"', "store", "out"),
        ("store = a=b", "store", "a=b"),
        ("store=2024", "store", "2024"),  # quotes are not needed
        ("store=2024-05-01", "store", "2024-05-01"),
        ("store=1e3", "store", "1e3"),
        ("labels.label_set=dog,cat", "labels.label_set", "dog,cat"),
        ("labels.template=", "labels.template", ""),
        ('sources=["x","y"]', "sources", ("x", "y")),
        ("train.every_run=false", "train.every_run", False),
        ("train.learning_rate=1e-4", "train.learning_rate", 1e-4),
    ],
)
def test_set_takes_a_toml_value_or_plain_text(
    workplace: Path, assignment: str, key: str, value: object
) -> None:
    found: object = resolve(None, {}, [assignment])
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("store", "--set store: write it as section.key=value"),
        ("=3", "--set =3: write it as section.key=value"),
        ("scan.settle=3", r"scan\.settle: there is no such key"),
        ("labels.top_k=none", r"labels\.top_k = 'none'"),
        ("store.name=3", r"store\.name"),
        ("store=", "store = ''"),
        ("scan=3", "scan = 3"),
    ],
)
def test_a_bad_assignment_is_told(workplace: Path, assignment: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve(None, {"store": "s"}, [assignment])


def test_a_store_lends_its_model_unless_one_is_named(workplace: Path) -> None:
    store = make_store(workplace / "store", {})
    content = {**store.get_json("store.json"), "model": "local-dir:held"}
    store.put_json("store.json", content)
    assert resolve(None, {"store": "store"}).encoder.model == "local-dir:held"
    assert resolve(None, {"encoder.model": "other"}).encoder.model == "other"
    assert resolve(None, {"store": "elsewhere"}).encoder.model == Config().encoder.model
    assert store.identity() == IDENTITY


def test_a_store_that_is_a_file_is_bad_input(workplace: Path) -> None:
    (workplace / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: is a file; a store is a folder"):
        create_store(resolve(None, {"store": "notes.txt"}).store)
