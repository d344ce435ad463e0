"""Every option does what its documentation says, alone and with others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.nn import ConvGRU, ConvLSTM, ConvLSTMCell, ConvRNN, ConvRNNCell
from nowcast.nn.convolution import SameConvolution


def frames(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class TestConvolutions:
    @pytest.mark.parametrize("kernel", [(1, 2), (2, 3), (4, 4), (5, 2)])
    @pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
    def test_zeros_at_stride_one_is_torch_padding_same(
        self, kernel: tuple[int, int], dilation: tuple[int, int]
    ) -> None:
        convolution = SameConvolution(kernel, (1, 1), dilation)
        input, weight = frames(2, 3, 7, 8), frames(4, 3, *kernel)
        with torch.no_grad():
            wanted = F.conv2d(F.pad(input, _same(kernel, dilation)), weight, dilation=dilation)
        torch.testing.assert_close(convolution(input, weight), wanted)

    def test_an_odd_kernel_at_stride_two_pads_both_sides_alike(self) -> None:
        assert SameConvolution((3, 5), (2, 2), (1, 1)).padding == ((1, 1), (2, 2))

    def test_an_even_kernel_pads_one_more_after_than_before(self) -> None:
        assert SameConvolution((2, 4), (1, 1), (1, 1)).padding == ((0, 1), (1, 2))

    @pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
    def test_padding_modes_are_those_of_torch(self, mode: str) -> None:
        theirs = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
        ours = SameConvolution((3, 3), (1, 1), (1, 1), mode)
        input = frames(1, 2, 5, 6)
        torch.testing.assert_close(ours(input, theirs.weight, theirs.bias), theirs(input))

    def test_a_circular_layer_commutes_with_rolling_everywhere(self) -> None:
        layer = ConvLSTM(1, 2, (3, 4), padding_mode="circular")
        input = frames(3, 1, 1, 6, 7)
        torch.testing.assert_close(layer(input.roll((2, 3), (-2, -1)))[0], layer(input)[0].roll((2, 3), (-2, -1)))


def _same(kernel: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """Padding of a "same" convolution as torch documents it: the odd pixel comes after."""
    pads = []
    for k, d in reversed(list(zip(kernel, dilation, strict=True))):
        total = d * (k - 1)
        pads += [total // 2, total - total // 2]
    return pads


class TestPerLayerValues:
    def test_lists_give_one_value_per_layer_and_single_values_are_repeated(self) -> None:
        layer = ConvLSTM(
            1,
            [4, 6],
            [3, (1, 5)],
            2,
            recurrent_kernel_size=[(3, 1), 1],
            stride=[2, (1, 3)],
            dilation=[1, 2],
            activation=["tanh", "relu"],
        )
        first, second = layer.cells
        assert (first.weight_ih.shape, second.weight_ih.shape) == ((16, 1, 3, 3), (24, 4, 1, 5))
        assert (first.weight_hh.shape, second.weight_hh.shape) == ((16, 4, 3, 1), (24, 6, 1, 1))
        output, state = layer(frames(2, 3, 1, 9, 10))
        assert output.shape == (2, 3, 6, 5, 2)
        assert [tuple(h.shape) for h, _ in state] == [(3, 4, 5, 5), (3, 6, 5, 2)]
        assert ConvLSTM(1, 4, 3, 3).cells[2].weight_hh.shape == (16, 4, 3, 3)

    def test_outputs_of_all_layers(self) -> None:
        last = ConvGRU(1, [2, 3], 3, 2)
        every = ConvGRU(1, [2, 3], 3, 2, return_all_layers=True)
        every.load_state_dict(last.state_dict())
        outputs, state = every(frames(4, 2, 1, 5, 5))
        assert [output.shape[2] for output in outputs] == [2, 3]
        torch.testing.assert_close(outputs[1], last(frames(4, 2, 1, 5, 5))[0])
        torch.testing.assert_close([output[-1] for output in outputs], list(state))


class TestNoInput:
    """in_channels=0: the first layer runs on its state alone, as the forecaster of the 2015 paper does."""

    def test_it_equals_a_layer_whose_input_is_zero(self) -> None:
        with_input = ConvLSTM(1, [2, 3], 3, 2, peephole="channel")
        without = ConvLSTM(0, [2, 3], 3, 2, peephole="channel")
        assert set(with_input.state_dict()) - set(without.state_dict()) == {"cells.0.weight_ih"}
        without.load_state_dict(with_input.state_dict(), strict=False)
        _, start = with_input(frames(2, 2, 1, 5, 5))
        wanted, wanted_state = with_input(torch.zeros(4, 2, 1, 5, 5), start)
        output, state = without(None, start, num_steps=4)
        torch.testing.assert_close(output, wanted)
        torch.testing.assert_close(state, wanted_state)
        # An input of no channels gives the number of steps, the batch and the grid as well.
        torch.testing.assert_close(without(torch.zeros(4, 2, 0, 5, 5), start)[0], wanted)
        torch.testing.assert_close(without(torch.zeros(4, 2, 0, 5, 5))[0], with_input(torch.zeros(4, 2, 1, 5, 5))[0])

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_the_output_has_the_form_of_the_layer(self, bias: bool, batch_first: bool) -> None:
        layer = ConvGRU(0, 2, 3, bias=bias, batch_first=batch_first, norm="group")
        output, _ = layer(None, (frames(3, 2, 5, 5),), num_steps=4)
        assert output.shape == ((3, 4, 2, 5, 5) if batch_first else (4, 3, 2, 5, 5))
        assert layer(None, (frames(2, 5, 5),), num_steps=4)[0].shape == (4, 2, 5, 5)

    def test_a_cell_without_input(self) -> None:
        cell = ConvLSTMCell(0, 2, 3)
        h, _ = cell(None, (frames(1, 2, 4, 4), frames(1, 2, 4, 4)))
        alone, _ = cell(None, (frames(1, 2, 4, 4)[0], frames(1, 2, 4, 4)[0]))
        torch.testing.assert_close(alone, h[0])


class TestActivationNormAndBias:
    def test_forget_bias_is_added_to_one_gate(self) -> None:
        torch.manual_seed(0)
        plain = ConvLSTM(1, 2, 3)
        torch.manual_seed(0)
        raised = ConvLSTM(1, 2, 3, forget_bias=1.0)
        difference = raised.state_dict()["cells.0.bias"] - plain.state_dict()["cells.0.bias"]
        torch.testing.assert_close(difference, torch.tensor([0.0, 0, 1, 1, 0, 0, 0, 0]))
        raised.reset_parameters()
        assert raised.state_dict()["cells.0.bias"][2:4].min() > 0.5

    def test_an_activation_by_name_by_function_or_as_a_module(self) -> None:
        input = frames(3, 1, 1, 4, 4)
        by_name = ConvRNN(1, 2, 3, activation="relu")
        by_function = ConvRNN(1, 2, 3, activation=F.relu)
        by_function.load_state_dict(by_name.state_dict())
        torch.testing.assert_close(by_function(input), by_name(input))
        learned = ConvRNN(1, 2, 3, activation=nn.PReLU())
        learned(input)[0].sum().backward()
        assert dict(learned.named_parameters())["cells.0.activation.weight"].grad is not None

    @pytest.mark.parametrize("norm", ["batch", "group", "layer"])
    def test_gates_have_zero_mean_and_unit_variance(self, norm: str) -> None:
        cell = ConvLSTMCell(2, 4, 3, norm=norm, bias=False)
        gates = cell.input_gates(5 + 3 * frames(6, 2, 8, 9))
        over: Any = {
            "batch": gates.movedim(1, 0).flatten(1),  # each channel
            "group": gates.unflatten(1, (4, 4)).flatten(2),  # each gate of each frame
            "layer": gates.movedim(1, -1).flatten(0, -2),  # each pixel
        }[norm]
        torch.testing.assert_close(over.mean(-1), torch.zeros_like(over.mean(-1)), atol=1e-5, rtol=0)
        # eps = 1e-5 beside a variance that a pixel of like channels makes small.
        torch.testing.assert_close(over.var(-1, correction=0), torch.ones_like(over.mean(-1)), atol=0.01, rtol=0)

    @pytest.mark.parametrize("norm", ["batch", "group", "layer"])
    def test_norms_work_on_any_grid_and_in_evaluation(self, norm: str) -> None:
        for build in (ConvLSTM, ConvGRU, ConvRNN, lambda *a, **o: ConvGRU(*a, reset="before", **o)):
            layer = build(2, 4, 3, norm=norm)
            for grid in ((5, 6), (9, 4)):
                layer.train()(frames(3, 2, 2, *grid))[0].sum().backward()
                output = layer.eval()(frames(3, 2, 2, *grid))[0]
                assert output.isfinite().all() and output.std() > 0

    def test_batch_norm_uses_running_statistics_in_evaluation(self) -> None:
        layer = ConvRNN(1, 2, 3, norm="batch")
        for _ in range(60):
            layer(3 + frames(2, 4, 1, 6, 6))
        both = layer.eval()(3 + frames(2, 4, 1, 6, 6))[0]
        one = layer(3 + frames(2, 4, 1, 6, 6)[:, :1])[0]
        torch.testing.assert_close(one, both[:, :1])  # a batch of one sees what it saw in the batch of four

    def test_without_bias_there_is_none(self) -> None:
        for build in (ConvLSTM, ConvGRU, ConvRNN):
            names = build(1, 2, 3, bias=False).state_dict()
            assert not any("bias" in name for name in names)
            build(1, 2, 3, bias=False)(frames(2, 1, 1, 4, 4))[0].sum().backward()


class TestStateAndDropout:
    def test_the_initial_state_lives_on_the_strided_grids(self) -> None:
        layer = ConvLSTM(1, [2, 3], 3, 2, stride=2, bidirectional=True)
        state = layer.get_initial_state(5, (9, 8))
        assert [tuple(h.shape) for h, _ in state] == [(5, 2, 5, 4)] * 2 + [(5, 3, 3, 2)] * 2
        input = frames(2, 5, 1, 9, 8)
        torch.testing.assert_close(layer(input, state), layer(input))
        assert ConvGRU(1, 2, 3).to(torch.float64).get_initial_state(1, (4, 4))[0].dtype == torch.float64

    def test_a_learned_initial_state_is_used_and_trained(self) -> None:
        layer = ConvLSTM(1, 2, 3, learn_initial_state=True)
        start = dict(layer.named_parameters())["cells.0.initial_state"]
        assert start.shape == (2, 2)  # h and c, one value a channel: any grid will do
        with torch.no_grad():
            start.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
        ((h, c),) = layer.get_initial_state(3, (4, 5))
        assert h[1, :, 2, 3].tolist() == pytest.approx([0.1, 0.2])
        assert c[0, :, 0, 0].tolist() == pytest.approx([0.3, 0.4])
        input = frames(2, 3, 1, 4, 5)
        output, _ = layer(input)
        torch.testing.assert_close(output, layer(input, ((h, c),))[0])
        output.sum().backward()
        assert start.grad is not None and (start.grad != 0).all()

    def test_dropout_acts_between_layers_in_training_alone(self) -> None:
        layer = ConvGRU(1, [64, 2], 1, 2, dropout=0.5, return_all_layers=True)
        input = frames(3, 2, 1, 4, 4)
        torch.manual_seed(0)
        (below, above), _ = layer(input)
        (below_still, above_still), _ = layer.eval()(input)
        torch.testing.assert_close(below, below_still)
        assert not torch.equal(above, above_still)
        torch.testing.assert_close(layer(input)[0][1], above_still)

    def test_a_quarter_of_what_lies_between_is_dropped(self) -> None:
        layer = ConvRNN(1, [64, 1], 1, 2, dropout=0.25, activation=["relu", "identity"], bias=False)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                parameter.fill_(0.0 if "hh" in name else 1.0)
        # Every one of 64 channels is 1; survivors count 1 / 0.75.
        with torch.no_grad():
            output, _ = layer(torch.ones(50, 8, 1, 4, 4))
        assert output.mean().item() / 64 == pytest.approx(1, abs=0.02)
        assert (output / 64).std().item() == pytest.approx((0.25 / 0.75 / 64) ** 0.5, rel=0.1)

    @pytest.mark.parametrize("build", [ConvLSTM, ConvGRU, ConvRNN])
    def test_recomputing_changes_memory_and_nothing_else(self, build: Any) -> None:
        plain = build(2, [4, 3], 3, 2, bidirectional=True, dtype=torch.float64)
        frugal = build(2, [4, 3], 3, 2, bidirectional=True, recompute=True, dtype=torch.float64)
        frugal.load_state_dict(plain.state_dict())
        kept, results = [], []
        for layer in (plain, frugal):
            saved: dict[int, int] = {}

            def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                output, _ = layer(frames(5, 2, 2, 9, 8).double())
            kept.append(sum(saved.values()))
            output.square().sum().backward()
            results.append([output, *(parameter.grad for parameter in layer.parameters())])
        torch.testing.assert_close(results[0], results[1])
        if build is ConvLSTM:
            assert kept[1] < 0.6 * kept[0]


def test_a_cell_says_what_it_is() -> None:
    cell = ConvRNNCell(1, 2, 3, stride=2, recurrent_kernel_size=1)
    assert repr(cell) == "ConvRNNCell(1, 2, kernel_size=(3, 3), recurrent_kernel_size=(1, 1), stride=(2, 2))"
