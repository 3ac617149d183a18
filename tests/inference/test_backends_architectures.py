"""Every architecture runs on OpenVINO as on torch, in 2D and 3D, with the options that the planner gives it."""

import pytest
import torch

from medseg.inference.backends.conversions import NotConverted
from medseg.inference.backends.openvino_backend import openvino_backend
from medseg.inference.backends.openvino_model import RUN
from medseg.models.architectures import ARCHITECTURES
from medseg.models.bundle import load_model, open_model, weights_of
from tests.models.test_architectures import build, planned
from tests.models.tiny_model import tiny_model, tiny_plan

SLOW = {"attention_unet", "unet_plus_plus", "mednext"}


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        pytest.param(name, dimensions, marks=[pytest.mark.slow] * (name in SLOW))
        for name in RUN
        for dimensions in (2, 3)
    ],
)
def test_openvino_gives_the_logits_of_torch(name, dimensions, tmp_path):
    component, patch = planned(name, dimensions, "odd")
    flat = {"dimensions": 2, "slice_axis": 2} if dimensions == 2 else {}
    plan = tiny_plan(
        architecture=component.model_dump(),
        channels=2,
        intensity=[{"scheme": "z_score"}] * 2,
        patch_size=[*patch, 1][:3],
        **flat,
    )
    torch.manual_seed(3)
    network = build(plan).eval()
    folder = tiny_model(tmp_path / "model", plan=plan, states={"fold_0": weights_of(network).state_dict()})
    (predict,) = openvino_backend(load_model(folder), torch.device("cpu"), "f32", print)
    patches = torch.randn(2, 2, *plan.patch_size)
    with torch.inference_mode():
        expected = network(patches)
    assert (predict(patches) - expected).abs().max() < 0.01 * expected.std()


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {*RUN}))
def test_other_architectures_are_refused_by_name(name, tmp_path):
    component, patch = planned(name, 3, "even")
    plan = tiny_plan(architecture=component.model_dump(), patch_size=patch)
    folder = tiny_model(tmp_path / "model", plan=plan, states={"fold_0": {"x": torch.zeros(1)}})
    with pytest.raises(NotConverted, match=f"OpenVINO does not run the network {name}, only unet"):
        openvino_backend(open_model(folder), torch.device("cpu"), "f32", print)
