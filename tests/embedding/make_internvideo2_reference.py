"""Makes ``internvideo2_reference.npz``: what the authors' own InternVideo2 Stage2 computes with weights of a recipe.

The authors' code is not part of this repository; it is run from a checkout of theirs::

    git clone https://github.com/OpenGVLab/InternVideo
    git -C InternVideo checkout 3965eef16e2dadd0ea6c8d0cc29c8a3039df52e3
    python -m venv reference && reference/bin/pip install torch "transformers==4.35.2" einops scipy "numpy<2"
    reference/bin/python tests/embedding/make_internvideo2_reference.py InternVideo internvideo2_reference.npz

Of it are run, unchanged, in InternVideo2/multi_modality: models/internvideo2_stage2_visual.py (``encode_vision`` with
``test=True``, ``encode_text``), models/backbones/internvideo2/internvideo2.py (``PretrainInternVideo2`` without the
fused kernels, ``pretrain_internvideo2_1b_patch14_224``) and models/backbones/bert/xbert.py (``BertForMaskedLM``).
flash_attn is never called then, and stands in as an empty module; of timm three functions of a line each do.

The file holds the sizes of a small model, its names and shapes, the inputs, the unit vectors, and the names and shapes
of the full model. Weights are not in it: ``recipe_state`` makes them.
"""

import functools
import importlib
import json
import sys
import types
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_VISION = {"width": 176, "depth": 3, "image_size": 224, "patch_size": 56, "clip_width": 96}
SMALL_TEXT = {"width": 64, "layers": 5, "fusion_layer": 3, "hidden": 160, "vocabulary": 120, "positions": 48}
NUM_FRAMES, NUM_CLIPS, NUM_TEXTS, MAX_TOKENS, VECTOR_SIZE = 4, 3, 4, 12, 24
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def recipe_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Weights that depend on nothing but their names and shapes, each large enough to be seen in the result."""
    return {name: _recipe(name, shape) for name, shape in shapes.items()}


def _recipe(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The legacy generator of numpy never changes its stream."""
    normal: Any = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.rpartition(".")[2]
    if kind == "weight" and len(shape) == 1:  # of a norm
        normal = 1 + 0.2 * normal
    elif kind == "gamma":
        normal = 0.5 + 0.2 * normal
    elif kind == "weight" and "embeddings" not in name:
        normal = normal / np.sqrt(np.prod(shape[1:]))
    else:
        normal = 0.3 * normal
    return np.asarray(normal, dtype=np.float32)


def recipe_frames() -> NDArray[np.uint8]:
    """Frames, uint8 RGB, shape (clips, frames, height, width, 3)."""
    size = SMALL_VISION["image_size"]
    return np.random.RandomState(1).randint(0, 256, (NUM_CLIPS, NUM_FRAMES, size, size, 3)).astype(np.uint8)


def recipe_tokens() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and mask of texts of several lengths, int64, shape (texts, tokens)."""
    lengths = np.array([MAX_TOKENS, 2, 7, 5])
    mask = (np.arange(MAX_TOKENS) < lengths[:, None]).astype(np.int64)
    tokens = np.random.RandomState(2).randint(1, SMALL_TEXT["vocabulary"], (NUM_TEXTS, MAX_TOKENS)).astype(np.int64)
    return tokens * mask, mask


def main(checkout: str, output: str) -> None:
    """Run the reference and write the file."""
    import torch

    reference = _import_reference(Path(checkout))
    small = _stage2(reference, _small_vision(reference), SMALL_TEXT, SMALL_VISION["clip_width"], VECTOR_SIZE).eval()
    shapes = {name: tuple(value.shape) for name, value in small.named_parameters()}  # tied ones once
    for name, value in recipe_state(shapes).items():
        small.get_parameter(name).data.copy_(torch.from_numpy(value))
    frames, (tokens, mask) = recipe_frames(), recipe_tokens()
    pixels = torch.from_numpy(np.transpose((frames / 255.0 - MEAN) / STD, (0, 1, 4, 2, 3))).float()
    with torch.no_grad():
        vision = small.vision_proj(small.encode_vision(pixels, test=True)[1])
        texts = types.SimpleNamespace(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask))
        text = small.text_proj(small.encode_text(texts)[1])
    np.savez_compressed(
        output,
        small_shapes=json.dumps(_shapes(small)),
        full_shapes=json.dumps(_full_shapes(reference)),
        clip_vectors=torch.nn.functional.normalize(vision, dim=-1).numpy(),
        text_vectors=torch.nn.functional.normalize(text, dim=-1).numpy(),
    )


def _import_reference(checkout: Path) -> types.SimpleNamespace:
    """The three files, without the packages' own ``__init__`` modules, which import every other model."""
    root = checkout / "InternVideo2" / "multi_modality"
    for name in ("", ".models", ".models.backbones", ".models.backbones.internvideo2", ".models.backbones.bert"):
        package = types.ModuleType(f"reference{name}")
        package.__path__ = [str(root / name[1:].replace(".", "/"))]
        sys.modules[package.__name__] = package
    importlib.import_module("transformers")  # it looks for flash_attn: before that stands in
    _stub_missing_packages()
    vision = importlib.import_module("reference.models.backbones.internvideo2.internvideo2")
    backbone: Any = sys.modules["reference.models.backbones.internvideo2"]
    backbone.pretrain_internvideo2_1b_patch14_224 = vision.pretrain_internvideo2_1b_patch14_224
    backbone.pretrain_internvideo2_6b_patch14_224 = vision.pretrain_internvideo2_6b_patch14_224
    backbone.internvl_clip_6b = None
    text = importlib.import_module("reference.models.backbones.bert.xbert")
    stage2 = importlib.import_module("reference.models.internvideo2_stage2_visual")
    return types.SimpleNamespace(vision=vision, text=text, stage2=stage2, root=root)


def _stub_missing_packages() -> None:
    import torch

    def module(name: str, **content: object) -> None:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)

    module("flash_attn")
    module("flash_attn.flash_attn_interface", flash_attn_varlen_qkvpacked_func=None)
    module("flash_attn.bert_padding", unpad_input=None, pad_input=None)
    module("timm")
    module("timm.models")
    module(
        "timm.models.layers",
        DropPath=lambda rate: torch.nn.Identity(),  # as it is outside training
        to_2tuple=lambda value: value if isinstance(value, tuple) else (value, value),
        trunc_normal_=torch.nn.init.trunc_normal_,
    )


def _small_vision(reference: types.SimpleNamespace) -> Any:
    return reference.vision.PretrainInternVideo2(
        img_size=SMALL_VISION["image_size"],
        patch_size=SMALL_VISION["patch_size"],
        embed_dim=SMALL_VISION["width"],
        depth=SMALL_VISION["depth"],
        clip_embed_dim=SMALL_VISION["clip_width"],
        use_flash_attn=False,
        use_fused_rmsnorm=False,
        use_fused_mlp=False,
        num_frames=NUM_FRAMES,
        sep_image_video_pos_embed=True,
        clip_teacher_embed_dim=40,
        clip_return_layer=2,
    )


def _stage2(reference: types.SimpleNamespace, vision: Any, text: Mapping[str, int], clip_width: int, size: int) -> Any:
    """The authors' whole model around these parts."""
    config = reference.text.BertConfig(
        hidden_size=text["width"],
        num_hidden_layers=text["layers"],
        num_attention_heads=16,
        intermediate_size=text["hidden"],
        vocab_size=text["vocabulary"],
        max_position_embeddings=text["positions"],
        fusion_layer=text["fusion_layer"],
        encoder_width=vision.embed_dim,
    )

    parts = {
        "build_vision_encoder": lambda self: vision,
        "build_text_encoder": lambda self: reference.text.BertForMaskedLM(config),
    }
    stage2 = type("Stage2", (reference.stage2.InternVideo2_Stage2_visual,), parts)

    class Config(types.SimpleNamespace):
        def get(self, name: str, default: object) -> object:
            return getattr(self, name, default)

    model = Config(
        vision_encoder=Config(clip_embed_dim=clip_width),
        text_encoder=Config(d_model=text["width"]),
        embed_dim=size,
        temp=0.07,
    )
    losses = Config(
        loss_weight=None, distill_final_features=True, clip_loss_ratio=[1, 1], vtm_hard_neg=True, mlm_masking_prob=0.5
    )
    tokenizer = types.SimpleNamespace(pad_token_id=0, cls_token_id=1, mask_token_id=2)
    return stage2(Config(model=model, criterion=losses), tokenizer)


def _full_shapes(reference: types.SimpleNamespace) -> dict[str, list[int]]:
    """Names and shapes of the published model: the settings of the authors' 1B evaluation at 4 frames."""
    import torch

    class Settings(dict[str, Any]):
        __getattr__ = dict.__getitem__

    vision = Settings(
        clip_embed_dim=768,
        use_flash_attn=False,
        use_fused_rmsnorm=False,
        use_fused_mlp=False,
        num_frames=4,
        tubelet_size=1,
        sep_image_video_pos_embed=True,
        use_checkpoint=False,
        checkpoint_num=0,
        clip_teacher_embed_dim=3200,
        clip_teacher_final_dim=768,
        clip_norm_type="l2",
        clip_return_layer=6,
        clip_student_return_interval=1,
        pretrained=None,
    )
    text = json.loads((reference.root / "configs" / "config_bert_large.json").read_text())
    sizes = {
        "width": text["hidden_size"],
        "layers": text["num_hidden_layers"],
        "fusion_layer": text["fusion_layer"],
        "hidden": text["intermediate_size"],
        "vocabulary": text["vocab_size"],
        "positions": text["max_position_embeddings"],
    }
    linspace: Any = torch.linspace
    vars(torch)["linspace"] = functools.partial(linspace, device="cpu")  # its values are read while the model is built
    with torch.device("meta"):
        encoder = reference.vision.pretrain_internvideo2_1b_patch14_224(Settings(vision_encoder=vision))
        return _shapes(_stage2(reference, encoder, sizes, 768, 512))


def _shapes(model: Any) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
