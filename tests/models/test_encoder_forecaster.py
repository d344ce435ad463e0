"""The 2015 encoding-forecasting net: its parameter counts, and where its state goes."""

import pytest
import torch

from nowcast.errors import MismatchError
from nowcast.models.blocks import OutputLayer, depth_to_space, nested_logits, pad_to_multiple, space_to_depth
from nowcast.models.encoder_forecaster import EncoderForecaster


def tiny(**options) -> EncoderForecaster:
    torch.manual_seed(0)
    return EncoderForecaster(1, (6, 4), **({"kernel_size": 3, "patch": 2} | options)).double()


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("order", ["same", "mirrored"])
@pytest.mark.parametrize(
    ("hidden", "kernel", "recurrent", "count"),
    [
        ((256,), 5, 5, 13_524_496),
        ((128, 128), 5, 5, 10_042_896),
        ((128, 64, 64), 5, 5, 7_585_296),
        ((128, 128), 9, 1, 11_550_224),
        ((128, 64, 64), 9, 1, 8_830_480),
    ],
)
def test_parameter_counts_of_table_1_of_the_paper(hidden, kernel, recurrent, count, order):
    with torch.device("meta"):
        net = EncoderForecaster(
            1, hidden, kernel_size=kernel, recurrent_kernel_size=recurrent, patch=4, decoder_order=order
        )
    assert parameters(net) == count


def test_parameter_count_of_the_fully_connected_lstm_of_the_paper():
    with torch.device("meta"):
        net = EncoderForecaster(1, (2048, 2048), kernel_size=1, patch=64, output_layers="last")
    assert parameters(net) == 142_667_776


def test_the_head_can_see_the_last_layer_alone():
    net = tiny(output_layers="last", decoder_order="mirrored")
    assert net.output.convolution.in_channels == 6
    assert net(torch.rand(1, 2, 1, 8, 8, dtype=torch.float64), 2).shape == (1, 2, 1, 8, 8)


def test_one_forecast_step_by_step_equals_the_net():
    net = tiny(decoder_order="mirrored")
    frames = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
    states = []
    sequence = [space_to_depth(frames[:, t], 2) for t in range(4)]
    for cell in net.encoder.cells:
        state = None
        following = []
        for frame in sequence:
            state = cell(frame, state)
            following.append(state[0])
        sequence = following
        states.append(state)
    state_1, state_2 = states[1], states[0]
    for lead in range(3):
        state_1 = net.forecaster.cells[0](None, state_1)
        state_2 = net.forecaster.cells[1](state_1[0], state_2)
        hidden = torch.cat([state_1[0], state_2[0]], dim=1)
        expected = depth_to_space(net.output.convolution(hidden), 2)
        torch.testing.assert_close(net.forward_logits(frames, 3)[:, lead], expected)


def test_first_forecaster_layer_has_no_input_weights():
    assert not any(name.startswith("forecaster.cells.0.weight_ih") for name, _ in tiny().named_parameters())


@pytest.mark.parametrize("order", ["same", "mirrored"])
def test_hidden_and_cell_state_of_every_encoder_layer_reach_the_forecast(order):
    net = tiny(decoder_order=order)
    frames = torch.rand(1, 3, 1, 8, 8, dtype=torch.float64)
    kept = []
    net.encoder.register_forward_hook(lambda module, arguments, output: kept.extend(output[1]))
    forecast = net(frames, 1)
    gradients = torch.autograd.grad(forecast.sum(), [part for pair in kept for part in pair])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_order_decides_which_encoder_layer_the_first_forecaster_layer_continues():
    assert [cell.hidden_channels for cell in tiny(decoder_order="same").forecaster.cells] == [6, 4]
    assert [cell.hidden_channels for cell in tiny(decoder_order="mirrored").forecaster.cells] == [4, 6]


def test_a_grid_of_any_size_is_the_crop_of_its_padded_forecast():
    net = tiny(patch=4)
    frames = torch.rand(1, 2, 1, 10, 13, dtype=torch.float64)
    whole = net(pad_to_multiple(frames, 4), 2)
    assert whole.shape == (1, 2, 1, 12, 16)
    torch.testing.assert_close(net(frames, 2), whole[..., :10, :13])


def test_later_leads_do_not_change_earlier_ones():
    net = tiny()
    frames = torch.rand(1, 2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(net(frames, 5)[:, :2], net(frames, 2))


@pytest.mark.parametrize("cell", ["convrnn", "convlstm", "convgru", "trajgru"])
def test_every_parameter_of_every_cell_is_trained(cell):
    net = tiny(cell=cell)
    net(torch.rand(2, 3, 1, 8, 8, dtype=torch.float64), 2).square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_spatial_peepholes_know_the_grid_in_frames():
    net = tiny(peephole="spatial", grid=(10, 8), patch=4)
    assert net(torch.rand(1, 2, 1, 10, 8, dtype=torch.float64), 1).shape == (1, 1, 1, 10, 8)
    with pytest.raises(MismatchError, match="a grid of 12x8 pixels, padding included, got frames of 16x16"):
        net(torch.rand(1, 2, 1, 16, 16, dtype=torch.float64), 1)


def test_a_mirrored_forecaster_takes_the_options_of_the_layer_it_continues():
    net = tiny(decoder_order="mirrored", dilation=[1, 2], norm=["none", "layer"], forget_bias=[0.0, 1.0])
    for encoder, forecaster in zip(net.encoder.cells, reversed(net.forecaster.cells), strict=True):
        assert forecaster.convolve_state.dilation == encoder.convolve_state.dilation
        assert (forecaster.norm_hh is None) == (encoder.norm_hh is None)
        assert forecaster.forget_bias == encoder.forget_bias


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_order": "reversed"}, "same or mirrored"),
        ({"output_layers": "first"}, "all or last"),
        ({"cell": "lstm"}, "convlstm"),
        ({"cell": "convgru", "peephole": "channel"}, "peephole belongs to cell convlstm"),
        ({"kernel_size": [3, 3, 3]}, "kernel_size has 3 values for 2 layers"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize("shape", [(1, 3, 2, 8, 8), (3, 1, 8, 8), (1, 0, 1, 8, 8)])
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="1 channels"):
        tiny()(torch.zeros(shape, dtype=torch.float64), 1)


def test_un_patching_inverts_patching():
    frames = torch.rand(2, 3, 5, 12, 8)
    assert torch.equal(depth_to_space(space_to_depth(frames, 4), 4), frames)


def test_output_bias_starts_at_the_climatology():
    layer = OutputLayer(3, 1, patch=2)
    layer.set_mean(0.07)
    torch.testing.assert_close(torch.sigmoid(layer(torch.zeros(1, 1, 3, 4, 4))), torch.full((1, 1, 1, 8, 8), 0.07))


def test_output_bias_of_nested_events_starts_at_their_climatologies():
    layer = OutputLayer(3, 4, patch=2)
    means = [0.3, 0.1, 0.02, 0.0]
    layer.set_mean(means)
    start = torch.sigmoid(layer(torch.zeros(1, 1, 3, 4, 4)))[0, 0, :, 0, 0]
    torch.testing.assert_close(start, torch.tensor([0.3, 0.1, 0.02, 1e-6]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("means", "message"), [([0.1, 0.2], "as many means, got 2"), (1.5, r"\[0, 1\]")])
def test_means_that_cannot_be_are_refused(means, message):
    with pytest.raises(ValueError, match=message):
        OutputLayer(3).set_mean(means)


def test_nested_logits_never_rise():
    values = torch.randn(2, 3, 5, 4, 4) * 30
    logits = nested_logits(values)
    assert (logits.diff(dim=2) <= 0).all()
    assert torch.equal(logits[:, :, 0], values[:, :, 0])
