"""The knobs of every stage, with unit, range and default."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

HEAD_KINDS = ("linear", "logistic", "mlp", "multimodal", "pairwise", "prompt")
_KIND = f"({'|'.join(HEAD_KINDS)})"


class Section(BaseModel):
    """A group of knobs: unknown keys are refused, values cannot change once made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class EncoderConfig(Section):
    """The CLIP model and how it is run."""

    model: str = Field(
        "ViT-B-32/datacomp_xl_s13b_b90k",
        description="architecture/pretrained tag, architecture/checkpoint file, hf-hub:org/name "
        "or local-dir:folder",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto | cpu | cuda | cuda:1; auto and cuda: all GPUs of this machine",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto | fp32 | bf16 | fp16; auto: the fastest the device does well"
    )
    batch_size: int = Field(
        0, ge=0, description="images per forward pass; 0: the fastest is found while running"
    )
    compile: bool = Field(False, description="torch.compile: slow to start, may run faster")
    decode: Literal["fast", "exact", "gpu"] = Field(
        "fast",
        description="fast (vectors agree to 0.9999) | exact: bit for bit open_clip's preprocessing "
        "| gpu: JPEGs on the GPU",
    )


class ScanConfig(Section):
    """Which files are taken."""

    settle_seconds: float = Field(
        30,
        ge=0,
        le=31_536_000,
        description="a file younger than this, in seconds, waits for the next run",
    )
    poll_seconds: float = Field(
        60, ge=1, description="serve --watch: between looks at buckets and network mounts"
    )
    decode_seconds: float = Field(
        60, gt=0, description="a file that takes longer to decode is recorded as unreadable"
    )
    max_pixels: int = Field(
        178_956_970,
        ge=1,
        description="larger pictures are recorded as unreadable, not decoded",
    )


class LabelsConfig(Section):
    """What is asked of each image."""

    label_set: str = Field(
        "labels.toml", min_length=1, description='a TOML file, or names: "dog,cat,car"'
    )
    template: str = Field(
        "",
        description='used for every label, such as "an eye with {}"; or a set: one | cifar | '
        "imagenet",
    )
    top_k: int = Field(5, ge=1, description="labels kept per image, likeliest first")
    abstain_below: float = Field(
        0.0, ge=0, le=1, description="an image whose confidence is lower gets no label, 0 to 1"
    )
    refine: Literal[
        "auto", "none", "neighbours", "neighbours-strong", "neighbours-sure", "anchored"
    ] = Field(
        "auto",
        description="auto (neighbours-sure, or what an audit has chosen) | none | neighbours | "
        "neighbours-strong | neighbours-sure (similar images vote, too; from 300 on) | "
        "anchored (all classes there)",
    )
    unknown: Literal["cosine", "mcm", "energy", "reject"] = Field(
        "cosine",
        description="how images that no class fits are told: cosine | mcm | energy | reject",
    )
    unknown_above: float = Field(
        2.0,
        ge=-2,
        le=2,
        description="an image whose unknown_score is higher gets no label; 2: all do",
    )


class SelectConfig(Section):
    """Which labelled images are good enough to train on, and which are held out."""

    policy: Literal["threshold", "quantile", "top-k"] = Field(
        "threshold",
        description="threshold (all that are sure enough) | quantile (the best share of each "
        "class) | top-k (the best per_class of each class)",
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="less sure images are left out by every policy, 0 to 1"
    )
    max_per_class: int = Field(5000, ge=1, description="the most confident ones, per class")
    share: float = Field(0.5, gt=0, le=1, description="of each class: quantile")
    per_class: int = Field(16, ge=1, description="images: top-k")
    floor: float = Field(
        0.7,
        ge=0,
        le=1,
        description="quantile, top-k: an image less sure than this x the median is left out",
    )
    min_members: int = Field(
        2, ge=1, description="quantile, top-k: smaller classes are left out, for they may be absent"
    )
    duplicate_cosine: float = Field(
        0.98, gt=0, le=1, description="images at least this similar are near-duplicates"
    )
    split_by: Literal["near-duplicates", "folder"] = Field(
        "near-duplicates", description="what stays on one side together: near-duplicates | folder"
    )
    valid_share: float = Field(
        0.2, gt=0, lt=1, description="share that is held out for early stopping"
    )
    truth: str = Field(
        "",
        description="a CSV file (path,label) or a folder with true labels: its images are held "
        "out for testing (a fifth of them, where it knows more than half of all)",
    )


class TrainConfig(Section):
    """The heads, and what they see beside the images."""

    every_run: bool = Field(True, description="train after each run that changed the selection")
    heads: str = Field(
        "auto",
        pattern=rf"^(auto|all|{_KIND}(,{_KIND})*)$",
        description="auto (linear; before it multimodal where there is side information) | all | "
        f"some of {', '.join(HEAD_KINDS)}, the preferred one first",
    )
    side_text: str = Field(
        "none",
        description="none | file-name | captions (of `pseudolabel caption`) | shards (key.txt, "
        "key.json of tar members) | shards:FIELD (of key.json) | a CSV file with the columns path "
        "(or image_id) and text",
    )
    side_columns: str = Field(
        "", description="a CSV or Parquet file with path (or image_id) and columns; empty: none"
    )
    side_use: str = Field(
        "",
        description='its columns that are used, such as "taken:time,camera,lat,lon"; kinds: '
        "numeric | categorical | time | lat | lon; *: all others; empty: all, kinds guessed",
    )
    allow_leakage: bool = Field(
        False, description="train even where side information says nearly as much as the image"
    )
    pull: float = Field(
        1e-3,
        ge=0,
        description="linear: of its weights to the text's, as of 1,000 samples; fewer pull harder",
    )
    fusion: Literal["concat", "gated", "dynamic"] = Field(
        "concat", description="multimodal: concat | gated | dynamic (Dynamic MLP, CVPR 2022)"
    )
    loss: Literal["cross-entropy", "generalised"] = Field(
        "cross-entropy", description="cross-entropy | generalised (for labels that are often wrong)"
    )
    soft_targets: bool = Field(
        False, description="learn how likely each class is instead of the likeliest one"
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="0 to 1; linear and logistic have none"
    )
    mixup: float = Field(
        0.0, ge=0, description="alpha of Beta(alpha, alpha) that samples are mixed by; 0: never"
    )
    pair_loss: Literal["contrastive", "triplet"] = Field(
        "contrastive", description="pairwise: contrastive | triplet"
    )
    context_tokens: int = Field(4, ge=1, description="prompt: words that are learnt")
    hidden: int = Field(256, ge=1, description="mlp, multimodal: width of the hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="mlp, multimodal: 0 to 1")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    batch_size: int = Field(256, ge=2, description="samples per step")
    max_epochs: int = Field(100, ge=1, description="passes over the training split at most")
    patience: int = Field(10, ge=1, description="epochs without a better validation loss")
    seed: int = Field(0, ge=0, description="same seed, same weights")


class CaptionConfig(Section):
    """The model that writes captions (`pseudolabel caption`)."""

    model: str = Field(
        "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k",
        description="a CoCa of open_clip, named as encoder.model; never used for labels",
    )
    batch_size: int = Field(16, ge=1, description="images written of at once")
    sample: bool = Field(
        False, description="draw each word among the likeliest instead of taking the likeliest"
    )
    seed: int = Field(0, ge=0, description="of these draws: same seed and batch, same words")
    commit_seconds: float = Field(
        60, ge=0, description="work, in seconds, that an interruption may cost"
    )


class IndexConfig(Section):
    """The search index: what it may take, and how good it must be."""

    kind: Literal["auto", "flat", "hnsw", "ivf-sq8", "ivf-pq"] = Field(
        "auto",
        description="auto (the best that fits) | flat (exact) | hnsw | ivf-sq8 | ivf-pq",
    )
    memory_mb: int = Field(
        1024, ge=1, description="that the index may take; exact search takes 2 bytes a number"
    )
    recall: float = Field(
        0.95, gt=0, le=1, description="of an approximate index, at 10 neighbours, 0 to 1"
    )
