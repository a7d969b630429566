from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from llqr_sam.engine.devices.device import (
    DeviceError,
    arithmetic,
    device_name,
    find_device,
    random_state,
    set_random_state,
)


def test_cpu_and_auto() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "mps", "cpu:0", "cuda:99"])
def test_another_name_is_refused_in_one_line(name: str) -> None:
    if name == "cuda:" and torch.cuda.is_available():
        pytest.skip("means cuda:0 here")
    with pytest.raises(DeviceError, match=f"^device={name}") as raised:
        find_device(name)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none(name: str) -> None:
    with pytest.raises(DeviceError, match=f"device={name}: PyTorch sees no CUDA device"):
        find_device(name)


def test_a_device_has_a_name() -> None:
    assert device_name(torch.device("cpu")).strip()


def test_the_random_state_continues_where_it_was() -> None:
    cpu = torch.device("cpu")
    torch.manual_seed(5)
    torch.rand(3)
    state = random_state(cpu)
    expected = torch.rand(4)
    torch.rand(100)
    set_random_state(state, cpu)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("deterministic", [True, False])
def test_arithmetic_is_set_inside_and_as_before_afterwards(deterministic: bool) -> None:
    cudnn = torch.backends.cudnn

    def now() -> tuple[bool, bool, bool, bool]:
        fills = torch.utils.deterministic.fill_uninitialized_memory
        return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, fills

    def failing_run() -> None:
        with arithmetic(deterministic=deterministic):
            assert now() == (deterministic, deterministic, not deterministic, False)
            raise KeyError

    before = now()
    with pytest.raises(KeyError):
        failing_run()
    assert now() == before


@pytest.fixture
def tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    """TF32 as a program may have set it: for convolutions, and for products of matrices."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    cudnn.allow_tf32, matmul = request.param
    torch.set_float32_matmul_precision(matmul)
    yield
    cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize("tf32", [(True, "highest"), (False, "high"), (True, "medium")], indirect=True)
@pytest.mark.parametrize("deterministic", [True, False])
def test_float32_is_not_tf32(tf32: None, deterministic: bool) -> None:
    """By default PyTorch's convolutions are TF32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def now() -> tuple[bool, bool, str]:
        return cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision()

    def failing_run() -> None:
        with arithmetic(deterministic=deterministic):
            assert now() == (False, False, "highest")
            compiled = torch.compile(lambda x: x @ x, backend="eager")  # which puts back what it finds
            compiled(torch.ones(2, 2))
            assert now() == (False, False, "highest")
            raise KeyError

    before = now()
    assert before != (False, False, "highest")
    with pytest.raises(KeyError):
        failing_run()
    assert now() == before


@pytest.mark.gpu
def test_a_gpu_convolves_in_float32() -> None:
    """TF32 rounds inputs to 10 bits: an error of 1e-4 and more where float32's is below 1e-5."""
    gpu = torch.device("cuda", 0)
    torch.manual_seed(0)
    images, kernel = torch.randn(8, 64, 16, 16, device=gpu), torch.randn(64, 64, 3, 3, device=gpu)
    exact = torch.nn.functional.conv2d(images.double(), kernel.double())
    with arithmetic(deterministic=True):
        found = torch.nn.functional.conv2d(images, kernel)
        product = kernel.flatten(1).T @ kernel.flatten(1)
    assert (found - exact).norm() < 1e-5 * exact.norm()
    exact = kernel.flatten(1).T.double() @ kernel.flatten(1).double()
    assert (product - exact).norm() < 1e-5 * exact.norm()


def test_devices_of_the_ranks_of_a_run(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(find_device(name, rank, 2)) for name in ("auto", "cuda") for rank in (0, 1)] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda:1",
    ]
    assert str(find_device("cuda:1", 0, 1)) == "cuda:1"
    assert str(find_device("cpu", 3, 8)) == "cpu"
    with pytest.raises(DeviceError, match=r"devices=4 on one machine: this one has 2 CUDA device\(s\)$"):
        find_device("auto", 0, 4)
    with pytest.raises(DeviceError, match="device=cuda:1 does not name 2 devices"):
        find_device("cuda:1", 0, 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="this one has 0 CUDA.*device=cpu runs as many processes"):
        find_device("auto", 0, 2)
