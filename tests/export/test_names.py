"""Wan's own names are those that diffusers knows how to convert."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from tests.export.editors import SIZES

from vedit.export.names import original


@pytest.mark.parametrize("image", [{}, {"image_dim": 8, "added_kv_proj_dim": 32}])
def test_every_name_comes_back_from_diffusers(image: dict[str, int]) -> None:
    with torch.device("meta"):
        names = WanTransformer3DModel(**SIZES, **image).state_dict().keys()
    assert len({original(name) for name in names}) == len(names)
    for name in names:
        assert list(convert_wan_transformer_to_diffusers({original(name): None})) == [name]


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(KeyError, match=r"blocks\.0\.attn3|attn3"):
        original("blocks.0.attn3.to_q.weight")
