import pytest
import torch

from vedit.attention import choice, choose_kernel
from vedit.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    """Pretend a CUDA device of some capability, with some packages installed."""

    def pretend(capability=(9, 0), installed=(), loads=True):
        monkeypatch.setattr(choice, "_capability", lambda: capability)
        modules = {choice._MODULES[name] for name in installed}
        monkeypatch.setattr(choice, "_installed", lambda module: module in modules)
        monkeypatch.setattr(choice, "_loads", lambda: loads)
        choose_kernel.cache_clear()

    yield pretend
    choose_kernel.cache_clear()


@pytest.mark.parametrize("name", ["auto", "sdpa", "cudnn", "xformers", "flash", "flash3", "flash4"])
def test_a_cpu_always_gets_sdpa_and_is_told_why(name):
    kernel = choose_kernel("cpu", torch.float32, name)
    assert kernel.name == "sdpa"
    assert kernel.reason


def test_an_unknown_kernel_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'xformer' is none of .* Did you mean 'xformers'\?"):
        choose_kernel("cpu", torch.float32, "xformer")


def test_hopper_prefers_flash_attention_4_then_cudnn(machine):
    machine()
    auto = choose_kernel("cuda", torch.bfloat16)
    assert auto.name == "cudnn"
    assert "next choice (flash4: flash-attn-4 is not installed)" in auto.reason
    assert "none of flash4, flash3, flash, xformers is installed" in auto.reason
    machine(installed=["xformers"])
    assert choose_kernel("cuda", torch.bfloat16).name == "cudnn + xformers"
    machine(installed=["xformers", "flash4"])
    auto = choose_kernel("cuda", torch.bfloat16)
    assert auto.name == "flash4"
    assert "compute capability 9.0; flash4 takes segments of different lengths" in auto.reason


def test_a_build_of_xformers_that_does_not_load_is_passed_over(machine):
    machine(installed=["xformers"], loads=False)
    assert choose_kernel("cuda", torch.bfloat16).name == "cudnn"
    with pytest.raises(ConfigError, match="'xformers' was asked for, but this build of xformers"):
        choose_kernel("cuda", torch.bfloat16, "xformers")


def test_what_takes_no_float32_is_passed_over_with_the_reason(machine):
    machine(installed=["flash4", "xformers"])
    auto = choose_kernel("cuda", torch.float32)
    assert auto.name == "sdpa"
    assert "cudnn: it takes float16 or bfloat16, not torch.float32" in auto.reason


def test_older_devices_keep_torchs_own_order(machine):
    machine((8, 0), ["flash", "flash4"])
    assert choose_kernel("cuda", torch.bfloat16).name == "sdpa + flash"


def test_a_kernel_that_was_asked_for_and_cannot_run_is_an_error(machine):
    machine((8, 0), ["flash4"])
    with pytest.raises(ConfigError, match="'flash' was asked for, but flash_attn is not installed"):
        choose_kernel("cuda", torch.bfloat16, "flash")
    with pytest.raises(ConfigError, match=r"'flash4' .* needs compute capability 9\.0"):
        choose_kernel("cuda", torch.bfloat16, "flash4")
    machine(installed=["flash"])
    with pytest.raises(ConfigError, match=r"float16 or bfloat16, not torch\.float32"):
        choose_kernel("cuda", torch.float32, "flash")


@pytest.mark.parametrize("name", ["flash4", "xformers", "cudnn", "flex"])
def test_one_that_was_asked_for_runs_everything(machine, name):
    machine(installed=["flash4", "xformers"])
    kernel = choose_kernel("cuda", torch.bfloat16, name)
    assert (kernel.name, kernel.reason) == (name, "asked for")


def test_every_order_ends_with_one_that_always_runs():
    assert choice.ORDERS[-1].since == (0, 0)
    for order in choice.ORDERS:
        assert order.whole[-1] == "sdpa"


def test_a_missing_package_is_no_error():
    assert not choice._installed("no_such_package.no_such_module")
