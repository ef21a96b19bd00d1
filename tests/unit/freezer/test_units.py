"""Units: what execution says, not registration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from freezer.errors import UnitError
from freezer.units import discover, survey
from tests.unit.freezer.toys import ResNet, Transformer, images, tokens


def names(model: nn.Module, *args: torch.Tensor, grain: str = "layer") -> list[str]:
    return [unit.name for unit in discover(model, args, {}, grain)]  # type: ignore[arg-type]


def test_units_are_ordered_by_execution() -> None:
    found = names(ResNet(), images())
    assert next(iter(dict(ResNet().named_children()))) == "fc", "the head is registered first"
    assert found == [
        "conv",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.1.conv1",
        "layer1.1.conv2",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer2.0.short.0",
        "layer2.1.conv1",
        "layer2.1.conv2",
        "fc",
    ]


def test_every_trainable_parameter_is_in_exactly_one_unit() -> None:
    for model, batch in ((ResNet(), images()), (Transformer(tied=True, unused=True), tokens())):
        for grain in ("layer", "block"):
            owned = [p for unit in discover(model, (batch,), {}, grain) for p in unit.params]  # type: ignore[arg-type]
            assert sorted(owned) == sorted(name for name, _ in model.named_parameters())


def test_norm_and_dropout_belong_to_the_weighted_module_before() -> None:
    unit = discover(ResNet(), (images(),), {}, "layer")[0]
    assert unit.params == ("conv.weight", "bn.weight", "bn.bias")
    assert unit.modules == ("conv", "bn", "drop")


def test_norm_before_any_weight_belongs_to_the_next() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
    first, second = discover(model, (torch.randn(2, 4),), {}, "layer")
    assert first.name == "1"
    assert set(first.params) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert second.name == "2"


def modules_of(model: nn.Module, *args: torch.Tensor) -> dict[str, tuple[str, ...]]:
    return {unit.name: unit.modules for unit in discover(model, args, {}, "layer")}


def test_a_pre_norm_belongs_to_its_own_block_not_to_the_one_before() -> None:
    found = modules_of(Transformer(), tokens())
    assert found["blocks.0.q"] == ("blocks.0.q", "blocks.0.norm1"), "before the first block stands the embedding"
    assert found["blocks.1.q"] == ("blocks.1.q", "blocks.1.norm1")
    assert found["blocks.1.proj"] == ("blocks.1.proj", "blocks.1.norm2"), "inside of a block: the layer before"
    assert found["blocks.0.down"] == ("blocks.0.down",)
    assert found["blocks.2.down"] == ("blocks.2.down", "norm"), "it stands in neither's container"


def test_post_norm_and_conv_bn_keep_the_layer_before() -> None:
    class Output(nn.Module):
        """As in BERT: linear, dropout, norm over the sum."""

        def __init__(self) -> None:
            super().__init__()
            self.dense, self.drop, self.norm = nn.Linear(4, 4), nn.Dropout(), nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x + self.drop(self.dense(x)))

    layers = nn.Sequential(*(nn.Sequential(Output(), Output()) for _ in range(2)), nn.Linear(4, 2))
    found = modules_of(layers, torch.randn(2, 4))
    assert found["0.1.dense"] == ("0.1.dense", "0.1.drop", "0.1.norm")
    assert found["1.0.dense"] == ("1.0.dense", "1.0.drop", "1.0.norm")
    assert modules_of(ResNet(), images())["layer1.0.conv2"] == ("layer1.0.conv2", "layer1.0.bn2")


def test_the_dropout_of_a_head_stays_awake_with_the_head() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(), nn.Linear(4, 2), nn.Dropout()))
    assert modules_of(model, torch.randn(2, 4)) == {"0": ("0",), "1.1": ("1.1", "1.0", "1.2")}


def test_the_dropout_of_an_adapter_sleeps_with_the_adapter() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert modules_of(model, torch.randn(2, 4)) == {"2": ("2", "1"), "3": ("3",)}


def test_a_norm_without_weights_sleeps_with_the_layer_before() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    assert modules_of(model, torch.randn(3, 4))["0"] == ("0", "1")


def test_what_a_parametrization_does_belongs_to_its_layer() -> None:
    model = nn.Sequential(spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    assert "0.parametrizations.weight.0" in modules_of(model, torch.randn(2, 4))["0"], "it iterates in training mode"


def test_tied_parameters_are_one_unit() -> None:
    units = discover(Transformer(tied=True), (tokens(),), {}, "layer")
    owners = [unit for unit in units if "embed.weight" in unit.params]
    assert len(owners) == 1
    assert owners[0].name == "embed"
    assert not any(unit.name == "head" for unit in units)
    assert len(owners[0].sites) == 2, "it runs at both ends"


def test_parameters_of_containers_join_the_first_unit_inside() -> None:
    assert "cls_token" in discover(Transformer(), (tokens(),), {}, "layer")[0].params


def test_module_used_twice_keeps_its_first_position() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(self.b(self.a(x))))

    units = discover(Twice(), (torch.randn(2, 4),), {}, "layer")
    assert [unit.name for unit in units] == ["a", "b", "c"]
    assert units[0].flops == 2 * units[1].flops


def test_unused_modules_come_last_and_are_marked() -> None:
    unit = discover(Transformer(unused=True), (tokens(),), {}, "layer")[-1]
    assert (unit.name, unit.used, unit.flops) == ("pool", False, 0)


def test_what_the_user_froze_is_no_unit_but_still_costs() -> None:
    model = ResNet()
    whole = survey(model, (images(),), {}, "layer")
    model.layer1.requires_grad_(False)
    found = survey(model, (images(),), {}, "layer")
    assert not any(unit.name.startswith("layer1") for unit in found.units)
    assert [unit.index for unit in found.units] == list(range(len(found.units)))
    layer1 = sum(unit.flops for unit in whole.units if unit.name.startswith("layer1"))
    torch.manual_seed(0)
    assert sum(site.flops for site in found.fixed) == layer1


def test_a_layer_without_values_is_no_unit() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(0, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.weight.sum()

    assert names(nn.Sequential(Empty(), nn.Linear(4, 4), Empty(), nn.Linear(4, 2)), torch.randn(2, 4)) == ["1", "3"]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(UnitError, match="no trainable parameter"):
        discover(nn.Linear(2, 2).requires_grad_(False), (torch.randn(1, 2),), {}, "layer")


def test_flops_are_the_products_and_attention_goes_to_the_unit_before() -> None:
    batch, length, width = 4, 6, 16
    by_name = {unit.name: unit for unit in discover(Transformer(), (tokens(batch),), {}, "layer")}
    linear = 2 * batch * length * width * width
    assert by_name["blocks.0.q"].flops == linear
    assert by_name["blocks.0.up"].flops == 2 * linear
    attention = 2 * 2 * batch * length * length * width  # scores, then the weighted sum, over all heads
    assert by_name["blocks.0.v"].flops == linear + attention
    assert by_name["embed"].flops == 0


def test_multi_head_attention_is_one_unit_with_its_output_projection() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    units = discover(layer, (torch.randn(2, 3, 8),), {}, "layer")
    assert [unit.name for unit in units] == ["self_attn", "linear1", "linear2"]
    assert "self_attn.out_proj.weight" in units[0].params


def test_parametrized_layers_keep_their_own_name() -> None:
    model = nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    units = discover(model, (torch.randn(2, 4),), {}, "layer")
    assert [unit.name for unit in units] == ["0", "1"]
    assert "0.parametrizations.weight.original1" in units[0].params


def test_wrapper_names_do_not_show() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.module = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x)

    assert names(Wrapper(ResNet()), images()) == names(ResNet(), images())


def test_a_child_that_is_called_like_a_wrappers_beside_one_of_the_same_name_is_an_error() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: str) -> None:
            super().__init__()
            self.module = nn.ModuleDict({inner: nn.Linear(4, 4)})
            self.head, self.inner = nn.Linear(4, 2), inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.module[self.inner](x))

    assert names(Wrapper("body"), torch.randn(2, 4)) == ["body", "head"]
    with pytest.raises(UnitError, match=r"'module\.head' and 'head' would both be called 'head'.*something else"):
        names(Wrapper("head"), torch.randn(2, 4))


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
def test_blocks(kind: str) -> None:
    if kind == "resnet":
        found = names(ResNet(), images(), grain="block")
        assert found == ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "head"]
    else:
        found = names(Transformer(), tokens(), grain="block")
        assert found == ["embedding", "blocks.0", "blocks.1", "blocks.2", "head"]


def test_discovery_leaves_no_trace() -> None:
    model = ResNet()
    model.layer1.eval()
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(4)
    batch = images()
    torch.manual_seed(3)
    discover(model, (batch,), {}, "layer")
    assert torch.equal(torch.rand(4), expected), "random state moved"
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("anew", [False, True])
def test_buffers_that_move_even_in_eval_mode_are_put_back(anew: bool) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("first", None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if anew:
                self.calls = self.calls + 1
                self.first = x
            else:
                self.calls += 1
            return self.layer(x)

    model = Counting()
    calls = model.calls
    discover(model, (torch.randn(2, 4),), {}, "layer")
    assert model.calls is calls
    assert model.calls == 0
    assert model.first is None


def test_a_table_that_grows_in_discovery_is_put_back_with_its_length() -> None:
    """As rotary embeddings do; they would take the old table for the long one."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.long = 2
            self.register_buffer("table", torch.arange(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > self.long:
                self.long = len(x)
                self.register_buffer("table", torch.arange(float(len(x))))
            return self.layer(x) * self.table[: len(x), None]

    model = Table()
    discover(model, (torch.randn(5, 4),), {}, "layer")
    assert (len(model.table), model.long) == (2, 2)
    assert model(torch.randn(5, 4)).shape == (5, 2)


def test_a_model_that_fails_is_left_as_it_was() -> None:
    model = ResNet()
    with pytest.raises(RuntimeError):
        discover(model, (torch.randn(2, 5, 9, 9),), {}, "layer")
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_keyword_arguments_are_passed_on() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, *, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.b(self.a(x))}

    units = discover(Keyword(), (), {"x": torch.randn(2, 4)}, "layer")
    assert [unit.activation_bytes for unit in units] == [32, 16]
