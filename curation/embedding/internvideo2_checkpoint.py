"""What a checkpoint of InternVideo2 Stage2 must hold, and what of it nobody needs for a vector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MOST_WIDTH = 1408  # the 6B is wider, and has 25 heads: shapes do not tell how many
_TEXT_LAYER = "text_encoder.bert.encoder.layer."
_TRAINING_ONLY = (
    "temp",
    "itm_head.",
    "text_encoder.cls.",
    "text_encoder.bert.embeddings.position_ids",
    "vision_encoder.img_pos_embed",
    "vision_encoder.clip_pos_embed",
    "vision_encoder.clip_img_pos_embed",
    "vision_encoder.clip_decoder.",
    "vision_encoder.final_clip_decoder.",
)  # and the text layers from the first one with cross-attention on

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InternVideo2Sizes:
    """How large the parts are.

    Attributes:
        image_size: pixels of a frame's sides.
        num_frames: of a clip.
        patch_size: pixels of a patch's sides.
        width: of a patch's vector; ``hidden`` inside the perceptrons, ``pooled`` of all patches together.
        vector_size: of what clips and texts become.
    """

    image_size: int = 224
    num_frames: int = 4
    patch_size: int = 14
    width: int = 1408
    depth: int = 40
    hidden: int = 6144
    pooled: int = 768
    text_width: int = 1024
    text_depth: int = 19
    text_hidden: int = 4096
    vocabulary: int = 30_522
    positions: int = 512
    vector_size: int = 512

    @property
    def num_tokens(self) -> int:
        """Patches of all frames, and one that stands for the clip."""
        return 1 + self.num_frames * (self.image_size // self.patch_size) ** 2


def sizes_of(shapes: _Shapes, *, image_size: int, num_frames: int) -> InternVideo2Sizes:
    """The sizes by which a checkpoint was made, as far as its shapes tell them.

    Raises:
        ValueError: it is not one of this model.
    """
    text_layers = {name: _text_layer(name) for name in shapes if name.startswith(_TEXT_LAYER)}
    with_video = [number for name, number in text_layers.items() if ".crossattention." in name]
    blocks = {name.split(".")[2] for name in shapes if name.startswith("vision_encoder.blocks.")}
    try:
        sizes = InternVideo2Sizes(
            image_size=image_size,
            num_frames=num_frames,
            patch_size=shapes["vision_encoder.patch_embed.proj.weight"][-1],
            width=shapes["vision_encoder.cls_token"][-1],
            depth=len(blocks),
            hidden=shapes["vision_encoder.blocks.0.mlp.fc1.weight"][0],
            pooled=shapes["vision_proj.weight"][1],
            text_width=shapes["text_proj.weight"][1],
            text_depth=min(with_video, default=len(set(text_layers.values()))),
            text_hidden=shapes[f"{_TEXT_LAYER}0.intermediate.dense.weight"][0],
            vocabulary=shapes["text_encoder.bert.embeddings.word_embeddings.weight"][0],
            positions=shapes["text_encoder.bert.embeddings.position_embeddings.weight"][0],
            vector_size=shapes["vision_proj.weight"][0],
        )
    except KeyError as error:
        raise ValueError(f"not a checkpoint of InternVideo2 Stage2: it lacks {error.args[0]}") from error
    if sizes.width > _MOST_WIDTH:
        raise ValueError(f"not the 1B model: its vectors have {sizes.width} numbers instead of {_MOST_WIDTH}")
    return sizes


def check_shapes(found: _Shapes, needed: _Shapes, sizes: InternVideo2Sizes) -> None:
    """Compare a checkpoint with what a network of its sizes needs.

    Raises:
        ValueError: something is missing, has another shape, or is neither needed nor known to be for training.
    """
    places = found.get("vision_encoder.pos_embed", (1, sizes.num_tokens))[1]
    if places != sizes.num_tokens:
        raise ValueError(
            f"it was trained for another number or size of frames: it knows {places} places, and {sizes.num_frames} "
            f"frames of {sizes.image_size} pixels in patches of {sizes.patch_size} have {sizes.num_tokens}"
        )
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"it lacks {_few(missing)}")
    if unlike := [f"{name} {found[name]} instead of {shape}" for name, shape in needed.items() if found[name] != shape]:
        raise ValueError(f"it has {_few(unlike)}")
    if unknown := [name for name in found if name not in needed and not is_for_training(name, sizes)]:
        raise ValueError(f"it has what InternVideo2 Stage2 does not have: {_few(unknown)}")


def is_for_training(name: str, sizes: InternVideo2Sizes) -> bool:
    """Whether a vector of a clip or a text does not depend on it."""
    if name.startswith(_TEXT_LAYER):
        return _text_layer(name) >= sizes.text_depth
    return name.startswith(_TRAINING_ONLY)


def _text_layer(name: str) -> int:
    return int(name.removeprefix(_TEXT_LAYER).split(".")[0])


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
