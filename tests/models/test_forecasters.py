"""All forecasters by name: built from a configuration, trained for a few steps, of any grid; and what each promises."""

import numpy as np
import pytest
import torch

from nowcast.config import Config, load_config
from nowcast.errors import ConfigError, MismatchError
from nowcast.models import registry
from nowcast.models.blocks import ForecastNet, WithOutputBias, pad_to_multiple
from nowcast.models.bundle import load_bundle
from nowcast.models.heads import make_head
from nowcast.models.pyramid import Pyramid
from nowcast.models.registry import build_forecaster, forecaster_names, register_forecaster
from nowcast.models.seq2seq import RecurrentAutoencoder, SequenceToSequence
from nowcast.models.unet import UNet
from nowcast.prediction.nowcaster import Nowcaster
from nowcast.training.fit import fit
from nowcast.training.losses import make_loss, masked_mean
from tests.training.tiny import tiny_data

EXCEEDANCE = ("model.head=exceedance", "model.thresholds_mm_h=[0.5, 2, 8]", "loss.name=exceedance")
NETS = {
    "2015, mirrored": ("model.hidden_channels=[4, 3]", "model.decoder_order=mirrored"),
    "2015, events": ("model.hidden_channels=[4]", *EXCEEDANCE),
    "pyramid, ConvLSTM, events": ("model.name=pyramid", "model.hidden_channels=[4, 6, 8]", *EXCEEDANCE),
    "pyramid, ConvGRU": ("model.name=pyramid", "model.hidden_channels=[4, 6]", "model.options={cell: convgru}"),
    "pyramid, TrajGRU, transposed": (
        "model.name=pyramid",
        "model.hidden_channels=[4, 6]",
        "model.patch=1",
        "model.options={cell: trajgru, links: [3, 2], strides: [3, 2], upsampling: transposed, features: [2, 6]}",
    ),
    "seq2seq, ConvLSTM": ("model.name=seq2seq", "model.hidden_channels=[4, 4]", "model.options={features: 4}"),
    "seq2seq, ConvGRU": ("model.name=seq2seq", "model.hidden_channels=[4]", "model.options={cell: convgru}"),
    "autoencoder": ("model.name=autoencoder", "model.hidden_channels=[4, 3]"),
    "autoencoder, events": ("model.name=autoencoder", "model.options={head_kernel_size: [3, 3, 3]}", *EXCEEDANCE),
    "U-Net": ("model.name=unet", "model.hidden_channels=[8, 8]"),
    "U-Net, events": ("model.name=unet", "model.hidden_channels=[8, 8]", *EXCEEDANCE),
}


def configuration(*overrides: str) -> Config:
    settings = [
        "loss.name=mse",
        "data.input_frames=2",
        "data.output_frames=2",
        "training.batch_size=4",
        "training.max_steps=8",
        "training.warmup_steps=0",
        "training.validate_every=8",
        "training.learning_rate=0.01",
        "training.workers=0",
        "training.precision=32",
    ]
    return load_config(overrides=[*settings, *overrides], environment={}).config


def built(*overrides: str, in_channels: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_forecaster(configuration(*overrides), in_channels).double()


def frames(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("overrides", NETS.values(), ids=NETS)
def test_lead_times_one_by_one_are_those_of_all_at_once(overrides):
    net, seen = built(*overrides), frames(2, 2, 2, 21, 26)
    with torch.no_grad():
        together = net.forward_logits(seen, 2)
        one_by_one = list(net.lead_logits(seen, 2))
    torch.testing.assert_close(torch.stack(one_by_one, dim=1), together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("overrides", NETS.values(), ids=NETS)
def test_every_net_trains_saves_and_forecasts_rain_from_its_bundle(overrides, tmp_path):
    config, data = configuration(*overrides), tiny_data()
    first = fit(data, config, tmp_path / "run")
    bundle = load_bundle(first.bundle)
    assert bundle.config == config and np.isfinite(first.validation_loss)
    rain = data.train.rain_rate(1)[:2]
    rain[0, 0, 0] = np.nan
    rain[1] = np.nan_to_num(rain[1])
    forecast = Nowcaster.load(first.bundle, device="cpu").forecast_frames(rain, 2)
    assert forecast.shape == (2, 8, 8) and np.isfinite(forecast).all() and (forecast >= 0).all()


@pytest.mark.parametrize("overrides", NETS.values(), ids=NETS)
def test_training_lowers_the_loss_of_one_batch(overrides):
    config, data = configuration(*overrides), tiny_data()
    torch.manual_seed(0)
    net = build_forecaster(config, data.in_channels)
    loss = make_loss(config.loss, data.normalizer, make_head(config.model, data.normalizer))
    batch = data.train.__getitems__(range(8))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    values = []
    for _ in range(15):
        value = masked_mean(loss(net.forward_logits(batch.inputs, 2), batch.targets), batch.valid)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.95 * values[0]
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("overrides", NETS.values(), ids=NETS)
def test_any_grid_is_the_crop_of_its_padded_forecast(overrides):
    net = built(*overrides)
    odd = frames(2, 2, 2, 11, 13)
    whole = net.forward_logits(pad_to_multiple(odd, net.multiple), 2)
    torch.testing.assert_close(net.forward_logits(odd, 2), whole[..., :11, :13])


@pytest.mark.parametrize("overrides", [v for v in NETS.values() if EXCEEDANCE[0] in v])
def test_chances_of_higher_thresholds_are_never_higher(overrides):
    net = built(*overrides)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert (net(frames(2, 2, 2, 8, 8), 2).diff(dim=2) <= 0).all()


@pytest.mark.parametrize("overrides", [v for k, v in NETS.items() if not k.startswith(("U-Net", "autoencoder, e"))])
def test_recurrent_nets_forecast_as_far_as_asked_and_earlier_leads_do_not_change(overrides):
    net = built(*overrides).eval()
    torch.testing.assert_close(net(frames(1, 3, 2, 12, 12), 5)[:, :2], net(frames(1, 3, 2, 12, 12), 2))


@pytest.mark.parametrize("overrides", NETS.values(), ids=NETS)
def test_every_input_frame_reaches_every_forecast(overrides):
    net = built(*overrides)
    given = frames(1, 2, 2, 12, 12).requires_grad_()
    forecast = net(given, 2)
    for lead in range(2):
        (gradient,) = torch.autograd.grad(forecast[:, lead].sum(), given, retain_graph=True)
        assert (gradient.abs().amax(dim=(3, 4)) > 0).all()


def test_the_pyramid_halves_its_grid_level_by_level_and_returns():
    net = Pyramid(2, (4, 6, 8)).double()
    grids = []
    for layer in net.encoder:
        layer.register_forward_hook(lambda module, given, output: grids.append(given[0].shape[-2:]))
    assert net.multiple == 16
    assert net(frames(1, 2, 2, 30, 48), 1).shape == (1, 1, 1, 30, 48)
    assert grids == [(8, 12), (4, 6), (2, 3)]


def test_the_pyramid_of_the_paper_divides_480_pixels_as_the_paper_does():
    with torch.device("meta"):
        net = Pyramid(
            1, (64, 192, 192), features=[8, 192, 192], strides=[5, 3, 2], patch=1, cell="trajgru", links=[13, 13, 9]
        )
    assert net.multiple == 30
    sides = [480]
    for down in net.down:
        sides.append(down(torch.empty(1, down[0].in_channels, sides[-1], sides[-1], device="meta")).shape[-1])
    assert sides == [480, 96, 32, 16]


@pytest.mark.parametrize("upsampling", ["shuffle", "transposed"])
def test_the_state_of_every_level_of_the_pyramid_reaches_the_forecast(upsampling):
    net = Pyramid(1, (4, 5, 6), upsampling=upsampling).double()
    kept = []
    for layer in net.encoder:
        layer.register_forward_hook(lambda module, given, output: kept.extend(output[1][0]))
    gradients = torch.autograd.grad(net(frames(1, 2, 1, 32, 32), 1).sum(), kept)
    assert len(gradients) == 6 and all(gradient.any() for gradient in gradients)


def test_scheduled_sampling_feeds_back_the_truth_at_first_and_the_forecast_at_the_end():
    net = SequenceToSequence(2, (4,), features=4, sampling_end=0.5).double()
    given, targets = frames(2, 3, 2, 12, 12), 1 - frames(2, 3, 1, 12, 12)
    valid = torch.ones_like(targets, dtype=torch.bool)
    free = net.forward_logits(given, 3)
    torch.testing.assert_close(net.scheduled_logits(given, targets, valid, 0.5), free)
    taught = net.scheduled_logits(given, targets, valid, 0.0)
    torch.testing.assert_close(taught[:, 0], free[:, 0])
    assert not torch.allclose(taught[:, 1], free[:, 1])
    # With the truth fed back, each lead is the first forecast from inputs that end with the truth.
    longer = torch.cat([given, torch.cat([targets[:, :2], given[:, -1:, 1:].expand(-1, 2, -1, -1, -1)], dim=2)], dim=1)
    torch.testing.assert_close(taught[:, 2], net.forward_logits(longer, 1)[:, 0])


def test_what_was_not_measured_is_never_fed_back():
    net = SequenceToSequence(2, (4,), features=4).double()
    given, targets = frames(1, 3, 2, 8, 8), frames(1, 3, 1, 8, 8)
    valid = torch.zeros_like(targets, dtype=torch.bool)
    torch.testing.assert_close(net.scheduled_logits(given, targets, valid, 0.0), net.forward_logits(given, 3))


def test_a_net_that_feeds_frames_back_refuses_a_head_of_thresholds():
    with pytest.raises(ConfigError, match="mean head"):
        built("model.name=seq2seq", *EXCEEDANCE)


def test_the_decoder_of_the_autoencoder_starts_from_all_states_of_the_encoder():
    net = RecurrentAutoencoder(1, (4, 3)).double()
    kept = []
    net.encoder.register_forward_hook(lambda module, given, output: kept.extend(t for pair in output[1] for t in pair))
    gradients = torch.autograd.grad(net(frames(1, 2, 1, 8, 8), 2).sum(), kept)
    assert len(gradients) == 4 and all(gradient.any() for gradient in gradients)


def test_the_unet_says_for_which_numbers_of_frames_it_was_made():
    net = UNet(1, (8, 8), input_frames=3, output_frames=2).double()
    assert net(frames(1, 3, 1, 8, 8), 1).shape == (1, 1, 1, 8, 8)
    for given, asked in ((frames(1, 2, 1, 8, 8), 2), (frames(1, 3, 1, 8, 8), 3)):
        with pytest.raises(MismatchError, match="takes 3 frames and forecasts 2"):
            net(given, asked)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.name=unet", "model.decoder_order=same"), "decoder_order"),
        (("model.name=unet", "model.options={colour: red}"), "colour"),
        (("model.options={patch: 2}", "model.patch=4"), "model.options sets patch, which stands elsewhere"),
        (("model.name=pyramid", "model.options={upsampling: magic}"), "shuffle, transposed"),
        (("model.name=pyramid", "model.options={strides: [2, 2]}"), "strides has 2 values for 3 layers"),
        (("model.name=pyramid", "model.peephole=channel", "model.options={cell: convgru}"), "peephole belongs to"),
        (("model.name=autoencoder", "model.options={head_kernel_size: [2, 3, 3]}"), "three odd numbers"),
        (("model.name=piramid",), "no forecaster is named 'piramid'"),
    ],
)
def test_what_a_net_does_not_take_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        built(*overrides)


class LastFrame(torch.nn.Module):
    """Somebody's own module: a scaled last frame."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        return (self.scale * frames[:, -1:, :1]).expand(-1, num_frames, -1, -1, -1)


@pytest.fixture
def own_net(monkeypatch):
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    register_forecaster("last_frame", lambda config, in_channels: LastFrame(**config.model.options))


def test_a_module_of_ones_own_trains_and_predicts_by_name(own_net, tmp_path):
    data = tiny_data()
    result = fit(data, configuration("model.name=last_frame", "model.options={scale: 2.0}"), tmp_path / "run")
    net = load_bundle(result.bundle).net
    assert isinstance(net, WithOutputBias) and "last_frame" in forecaster_names()
    rain = np.nan_to_num(data.train.rain_rate(1)[:2])
    assert Nowcaster.load(result.bundle, device="cpu").forecast_frames(rain, 3).shape == (3, 8, 8)


def test_a_module_of_ones_own_starts_at_the_climatology(own_net):
    net = build_forecaster(configuration("model.name=last_frame", "model.options={scale: 0.0}"), 2)
    net.set_output_bias(0.2)
    torch.testing.assert_close(net(torch.rand(1, 2, 2, 4, 4), 2), torch.full((1, 2, 1, 4, 4), 0.2))


def test_a_name_is_registered_once(own_net):
    for name in ("last_frame", "unet"):
        with pytest.raises(ValueError, match="registered already"):
            register_forecaster(name, lambda config, in_channels: LastFrame(1.0))


def test_the_interface_is_abstract_without_a_net():
    with pytest.raises(NotImplementedError):
        ForecastNet(1, multiple=1)(torch.zeros(1, 1, 1, 4, 4), 1)


class Logits(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.net.forward_logits(frames, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder_forecaster", "pyramid", "seq2seq", "autoencoder", "unet"])
def test_export_serves_any_batch_and_grid(name):
    """Sides are twice the multiple that a net pads to, which is what the exporter can prove about them."""
    net = built(f"model.name={name}", "model.hidden_channels=[4, 4]").eval()
    side = net.multiple * 2
    rows, columns = (side * torch.export.Dim(axis, min=2, max=256) for axis in ("rows", "columns"))
    shapes = {0: torch.export.Dim("batch", min=1, max=64), 3: rows, 4: columns}
    program = torch.export.export(
        Logits(net), (frames(2, 2, 2, 2 * side, 3 * side),), dynamic_shapes=(shapes,), strict=False
    )
    other = frames(3, 2, 2, 4 * side, 2 * side)
    torch.testing.assert_close(program.module()(other), net.forward_logits(other, 2))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.name=pyramid", "model.hidden_channels=[]"), "model pyramid cannot be built"),
        (("model.name=pyramid", "model.options={strides: 0}"), "model pyramid cannot be built"),
        (("model.options={stride: 2}",), r"with options \{'stride': 2\}"),
        (("model.options={bidirectional: true}",), "with options {'bidirectional': True} it cannot forecast"),
        (("model.options={spatial_dims: 3}",), "with options {'spatial_dims': 3} it cannot forecast"),
        (("model.options={strid: 2}",), "it takes no option 'strid'"),
        (("model.name=unet", "model.peephole=channel"), "it takes no option 'peephole'"),
        (("model.name=seq2seq", "model.base=true"), "scheduled sampling feeds true frames back"),
    ],
)
def test_options_that_a_net_cannot_run_with_are_refused_when_it_is_built(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_forecaster(configuration(*overrides), 2)


def test_a_base_goes_with_a_net_that_feeds_back_only_its_forecasts():
    build_forecaster(configuration("model.name=seq2seq", "model.base=true", "model.options={sampling_end: 0}"), 2)
