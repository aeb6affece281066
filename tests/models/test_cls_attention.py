"""The class token's attention row, compared with the full map of timm's unfused attention."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import ResPostBlock
from torch import nn
from torch.nn import functional

from distillkit.contracts.model import Outputs, Signal
from distillkit.errors import SignalError
from distillkit.models import FrozenTeacher, OneAnswer, TimmModel
from distillkit.models.class_matching import ClassMap
from distillkit.models.cls_attention import class_token_row

ROWS = Signal.CLS_ATTENTION
LOGITS = {Signal.LOGITS: ()}
SMALL = {"image_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
GROUPED = {"num_heads": 4, "num_kv_heads": 2, "qkv_fused": False}
NETWORKS = {
    # case: (architecture, arguments, prefix tokens)
    "class token": ("deit_tiny_patch16_224", SMALL, 1),
    "class and distillation token": ("deit_tiny_distilled_patch16_224", SMALL, 2),
    "class token and four registers, residual scales": ("vit_small_patch14_reg4_dinov2", SMALL, 5),
    "norms of queries and keys": ("deit_tiny_patch16_224", {**SMALL, "qk_norm": True}, 1),
    "norm of the attention output": ("beit3_base_patch16_224", SMALL, 1),
    "positions without class token": ("deit3_small_patch16_224", SMALL, 1),
    "norm after attention": ("deit_tiny_patch16_224", {**SMALL, "block_fn": ResPostBlock}, 1),
    "EVA without rotary positions": ("eva_giant_patch14_224", SMALL, 1),
    "dynamic image size": ("deit_tiny_patch16_224", {**SMALL, "dynamic_img_size": True}, 1),
    "DINOv3": ("vit_small_patch16_dinov3", SMALL, 5),
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", SMALL, 5),
    "EVA02": ("eva02_tiny_patch14_224", SMALL, 1),
    "EVA02 with separate projections": ("eva02_base_patch14_224", SMALL, 1),
    "EVA02 with norm after attention": ("eva02_enormous_patch14_clip_224", SMALL, 1),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", SMALL, 1),
    "rotary ViT": ("vit_small_patch16_rope_ape_224", SMALL, 1),
    "learned rotation per block": ("vit_small_patch16_rope_mixed_224", SMALL, 1),
    "keys shared by heads, norms of queries and keys": ("vit_base_patch16_sapiens2", {**SMALL, **GROUPED}, 9),
}  # fmt: skip


def create(case="class token", **more):
    architecture, arguments, _ = NETWORKS[case]
    torch.manual_seed(0)
    model = TimmModel.create(architecture, name="model", classes=5, **{**arguments, **more})
    with torch.no_grad():
        for parameter in model.network.parameters():
            # As initialised, many are zero, one or almost equal, and would hide an error.
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def random_images(model, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, *model.spec.image_size, generator=generator, dtype=torch.float64).to(dtype)


def unfused(model):
    """A copy of the network with unfused attention, and the maps of its last forward, [B, A, N, N] each."""
    network = copy.deepcopy(model.network)
    maps = []
    for block in network.blocks:
        block.attn.fused_attn = False
        # The map passes through this dropout before it is multiplied by the values.
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, probabilities: maps.append(probabilities))
    return network, maps


def row_of(attention_map, prefix):
    """As the contract defines it: the class token's row, without the other prefix tokens, divided by its sum."""
    row = torch.cat([attention_map[:, :, 0, :1], attention_map[:, :, 0, prefix:]], dim=-1)
    return row / row.sum(dim=-1, keepdim=True)


def max_error(actual, expected):
    """The largest difference, relative to the largest entry."""
    return float((actual.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("case", NETWORKS)
def test_rows_and_their_gradients_equal_those_of_the_full_map(case, dtype, tolerance):
    model = create(case).to(dtype)
    prefix = NETWORKS[case][2]
    assert model.spec.prefix_tokens == prefix
    network, maps = unfused(model)
    images = random_images(model, dtype=dtype)
    rows = model(images, {ROWS: (0, 1, 2)}).cls_attention
    network(images)
    expected = torch.stack([row_of(attention_map, prefix) for attention_map in maps], dim=1)
    assert rows.shape == (2, 3, model.spec.heads, 1 + 24)
    assert rows.dtype is dtype
    assert max_error(rows, expected) < tolerance
    torch.testing.assert_close(rows.sum(dim=-1), torch.ones_like(rows[..., 0]))

    weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    (rows * weights).sum().backward()
    (expected * weights).sum().backward()
    theirs = dict(network.named_parameters())
    for name, parameter in model.network.named_parameters():
        assert (parameter.grad is None) == (theirs[name].grad is None)
        if name.endswith("v_bias") and name.startswith("blocks.2."):  # after the last row
            assert not parameter.grad.any()
        elif parameter.grad is not None and not name.endswith("k_norm.bias"):  # one shift of all keys moves no row
            # Three layers of rounding differences, fused against unfused, lie between a row and the first parameters.
            assert max_error(parameter.grad, theirs[name].grad) < 3 * tolerance, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_rows_have_the_rotation_that_training_draws_for_the_same_call(dtype, tolerance):
    jitter = {"rope_shift_coords": 0.5, "rope_jitter_coords": 1.5, "rope_rescale_coords": 2.0}
    model = create("DINOv3", **jitter).to(dtype).train()
    network, maps = unfused(model)
    images, rows = random_images(model, dtype=dtype), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        rows.append(model(images, {ROWS: (0, 1, 2)}).cls_attention)
    torch.manual_seed(2)
    network(images)
    expected = torch.stack([row_of(attention_map, 5) for attention_map in maps], dim=1)
    assert max_error(rows[1], expected) < tolerance
    assert max_error(rows[0], expected) > 1e-3


def test_a_network_with_an_attention_mask_is_refused():
    model = create("DINOv3")
    images = random_images(model)
    message = "^CLS attention cannot be read while the network runs with an attention mask; omit it$"
    for options in ({"attn_mask": torch.ones(29, 29, dtype=torch.bool)}, {"is_causal": True}):
        model.network.forward_features(images, **options)  # unless it is read
        with model._rows.reading((0,)), pytest.raises(SignalError, match=message):
            model.network.forward_features(images, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("grid", "prefix"), [((14, 14), 1), ((14, 14), 2), ((7, 19), 5)])
def test_row_and_gradients_of_one_block_are_exact(grid, prefix, dtype, tolerance):
    """With the sizes of ViT-S/16 and of a grid that is not square, for the same queries and keys."""
    generator = torch.Generator().manual_seed(0)
    tokens = prefix + grid[0] * grid[1]
    queries, keys = torch.randn(2, 2, 6, tokens, 64, generator=generator, dtype=torch.float64).to(dtype)
    queries.requires_grad_()
    keys.requires_grad_()
    row = class_token_row(queries[:, :, 0], keys, scale=64**-0.5, prefix_tokens=prefix)
    expected = row_of(torch.softmax(64**-0.5 * queries @ keys.transpose(-2, -1), dim=-1), prefix)
    assert row.dtype is dtype
    assert max_error(row, expected) < tolerance
    weights = torch.randn(row.shape, generator=generator, dtype=torch.float64).to(dtype)
    gradients = torch.autograd.grad((row * weights).sum(), (queries, keys))
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (queries, keys))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert max_error(ours, theirs) < tolerance


@given(
    heads=st.integers(1, 4),
    width=st.integers(1, 9),
    prefix=st.integers(1, 6),
    patches=st.integers(1, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_any_geometry_gives_the_row_and_the_gradients_of_the_full_map(heads, width, prefix, patches, seed):
    generator = torch.Generator().manual_seed(seed)
    queries, keys = torch.randn(2, 2, heads, prefix + patches, width, generator=generator, dtype=torch.float64)
    queries.requires_grad_()
    keys.requires_grad_()
    scale = width**-0.5
    row = class_token_row(queries[:, :, 0], keys, scale=scale, prefix_tokens=prefix)
    expected = row_of(torch.softmax(scale * queries @ keys.transpose(-2, -1), dim=-1), prefix)
    torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-14)
    weights = torch.randn(row.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad((row * weights).sum(), (queries, keys))
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (queries, keys))
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-13)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: class_token_row(*inputs, scale=0.5, prefix_tokens=2), (query, keys))


def test_large_scores_do_not_overflow():
    keys = torch.tensor([[1e4, 0.0], [0.0, 1e4], [1e4, 0.0]])[None, None]
    row = class_token_row(torch.tensor([[[1e3, 1.0]]]), keys, scale=1.0)
    assert torch.equal(row, torch.tensor([[[0.5, 0.0, 0.5]]]))


def test_other_prefix_tokens_are_left_out_even_with_nearly_all_the_weight():
    keys = torch.tensor([[0.0], [80.0], [1.0], [2.0]], dtype=torch.float64)[None, None]
    row = class_token_row(torch.ones(1, 1, 1, dtype=torch.float64), keys, scale=1.0, prefix_tokens=2)
    torch.testing.assert_close(row[0, 0], torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).softmax(dim=0))


def test_layers_are_returned_in_the_requested_order():
    model = create()
    images = random_images(model)
    every = model(images, {ROWS: (0, 1, 2)}).cls_attention
    assert torch.equal(model(images, {ROWS: (2,)}).cls_attention, every[:, 2:])
    assert torch.equal(model(images, {ROWS: (0, 2)}).cls_attention, every[:, [0, 2]])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("case", ["class token", "class and distillation token", "learned rotation per block"])
def test_reading_changes_no_bit_of_other_outputs(case, train):
    model = create(case, drop_path_rate=0.3, attn_drop_rate=0.2).train(train)
    others = {signal: () if "logits" in signal else (0, 2) for signal in sorted(model.spec.signals - {ROWS})}
    images = random_images(model)
    for wanted in (LOGITS, others):
        outputs = []
        for reads in (wanted, {**wanted, ROWS: (0, 1, 2)}):
            torch.manual_seed(1)
            outputs.append(model(images, reads))
        without, reading = outputs
        assert reading.cls_attention is not None
        assert torch.equal(without.logits, reading.logits)
        for before, after in zip(
            without.embedding + without.patch_tokens, reading.embedding + reading.patch_tokens, strict=True
        ):
            assert torch.equal(before, after)


def test_the_row_is_read_before_dropout():
    model = create(attn_drop_rate=0.5)
    still = model(random_images(model), {ROWS: (0,)}).cls_attention
    assert torch.equal(model.train()(random_images(model), {ROWS: (0,)}).cls_attention, still)


def test_attention_stays_fused_and_no_map_is_saved_for_the_backward(monkeypatch):
    model, calls, sizes = create().train(), [], []
    fused = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *given, **more: calls.append(1) or fused(*given, **more)
    )
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: sizes.append(saved.shape) or saved, lambda saved: saved
    ):
        model(random_images(model), {ROWS: (0, 1, 2)})
    assert len(calls) == 3
    assert not any(size[-2:] == (25, 25) for size in sizes)


def saved_bytes(model, images, wanted):
    """The bytes of all storages that a forward saves for its backward, without those of parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = {}  # holds the storages, so that no address is used twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images, wanted)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("case", ["class token", "norms of queries and keys"])
def test_only_the_row_is_saved_for_the_backward(case, autocast):
    model = create(case).train()
    images = random_images(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        without, reading = (saved_bytes(model, images, wanted) for wanted in (LOGITS, {**LOGITS, ROWS: (0, 1, 2)}))
    rows = 2 * 3 * 3 * 25 * 4  # B * L * A * (1 + N) numbers in float32
    assert reading - without == rows


def test_nothing_is_computed_if_no_row_is_wanted():
    model, without_hooks = create(), create()
    for module in without_hooks.network.modules():
        module._forward_hooks.clear()
    images = random_images(model)
    assert saved_bytes(model, images, LOGITS) == saved_bytes(without_hooks, images, LOGITS)
    assert model(random_images(model), LOGITS).cls_attention is None


def test_a_failed_call_does_not_leave_reading_switched_on():
    model = create()
    with pytest.raises(AssertionError):
        model(torch.zeros(1, 3, 8, 8), {ROWS: (0,)})
    with pytest.raises(AssertionError):
        model.network(torch.zeros(1, 3, 8, 8))
    assert model(random_images(model), LOGITS).cls_attention is None
    assert model._rows._layers == ()


def test_teacher_and_student_with_the_same_network_class_do_not_interfere():
    student, teacher = create().train(), create("class token", depth=2)
    images = random_images(student)
    alone = [model(images, {ROWS: (1,)}).cls_attention for model in (student, teacher)]
    # The teacher runs between the query and the keys of the student.
    student.network.blocks[1].attn.q_norm.register_forward_hook(
        lambda *_: alone.append(teacher(images, {ROWS: (1,)}).cls_attention)
    )
    assert torch.equal(student(images, {ROWS: (1,)}).cls_attention, alone[0])
    assert torch.equal(alone[2], alone[1])
    assert not torch.equal(alone[0], alone[1])


def test_the_same_model_may_be_called_again_before_the_backward():
    model = create().train()
    first, second = random_images(model)[:1], random_images(model)[1:]
    both = model(random_images(model), {ROWS: (0, 2)}).cls_attention
    one, two = (model(images, {ROWS: (0, 2)}).cls_attention for images in (first, second))
    torch.testing.assert_close(torch.cat([one, two]), both)
    (one.square().sum() + two.square().sum()).backward()
    assert model.network.blocks[2].attn.qkv.weight.grad.abs().sum() > 0


def test_a_deep_copy_reads_its_own_rows():
    model = create()
    twin = copy.deepcopy(model)
    images = random_images(model)
    assert torch.equal(twin(images, {ROWS: (1,)}).cls_attention, model(images, {ROWS: (1,)}).cls_attention)
    assert twin.network.blocks[0].attn.q_norm._forward_hooks != model.network.blocks[0].attn.q_norm._forward_hooks


def test_a_frozen_teacher_records_no_graph():
    student = create()
    teacher = OneAnswer(create("class and distillation token"))
    frozen = FrozenTeacher(teacher, student=student.spec, size="student", class_map=ClassMap())
    outputs = frozen(random_images(student), {ROWS: (0, 2), **LOGITS})
    assert outputs.cls_attention.shape == (2, 2, 3, 25)
    assert not outputs.cls_attention.requires_grad
    assert outputs.cls_attention.grad_fn is None


def test_another_image_size_gives_another_grid():
    model = create("dynamic image size")
    rows = model(torch.randn(2, 3, 64, 40), {ROWS: (2,)}).cls_attention
    assert rows.shape == (2, 1, 3, 1 + 8 * 5)


def test_under_autocast_the_row_is_exact_for_the_blocks_own_queries_and_keys():
    model = create("class token and four registers, residual scales").train()
    captured = {}
    attention = model.network.blocks[0].attn
    attention.q_norm.register_forward_hook(lambda _module, _inputs, query: captured.update(query=query))
    attention.k_norm.register_forward_hook(lambda _module, _inputs, keys: captured.update(keys=keys))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = model(random_images(model), {ROWS: (0,)}).cls_attention
    assert captured["keys"].dtype is torch.bfloat16
    query, keys = captured["query"].double(), captured["keys"].double()
    expected = row_of(torch.softmax(attention.scale * query @ keys.transpose(-2, -1), dim=-1), 5)
    assert rows.dtype is torch.float32
    assert max_error(rows[:, 0], expected) < 1e-5
    rows.square().sum().backward()
    gradient = attention.qkv.weight.grad
    assert gradient.dtype is torch.float32
    assert gradient.isfinite().all()
    assert gradient.any()


COMPILED = ["class token", "norms of queries and keys", "class and distillation token", "DINOv3 with biases"]


@pytest.mark.parametrize("case", COMPILED)
def test_compiles_into_one_graph_with_the_same_rows_and_gradients(case):
    torch.compiler.reset()
    model = create(case)
    images, wanted = random_images(model), {**LOGITS, ROWS: (0, 2)}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for variant in (model, compiled):
        model.zero_grad()
        outputs = variant(images, wanted)
        assert isinstance(outputs, Outputs)
        outputs.cls_attention.square().sum().backward()
        gradients.append((outputs.cls_attention.detach(), model.network.blocks[0].attn.qkv.weight.grad.clone()))
    torch.testing.assert_close(gradients[1], gradients[0])
    assert compiled(images, LOGITS).cls_attention is None


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_under_ddp_every_parameter_gets_its_gradient():
    model = create().train()
    plain = copy.deepcopy(model)
    wanted = {**LOGITS, ROWS: (0, 1, 2)}
    parallel = nn.parallel.DistributedDataParallel(model)
    for variant in (parallel, plain):
        for _ in range(2):
            outputs = variant(random_images(model), wanted)
            (outputs.cls_attention.square().sum() + outputs.logits.square().mean()).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)


def test_the_networks_state_dict_is_timms():
    model = create()
    arguments = {key: value for key, value in SMALL.items() if key != "image_size"}
    timms = timm.create_model("deit_tiny_patch16_224", num_classes=5, img_size=(32, 48), **arguments)
    assert list(model.network.state_dict()) == list(timms.state_dict())
    timms.load_state_dict(model.network.state_dict())


READ = [
    "vit_tiny_patch16_224",
    "vit_small_patch16_224.dino",
    "vit_small_patch8_224.dino",
    "vit_base_patch16_224.mae",
    "vit_base_patch16_clip_224",
    "vit_base_patch14_dinov2",
    "vit_base_patch16_radio_v3",
    "vit_intern300m_patch14_448",
    "deit3_medium_patch16_224",
    "flexivit_small",
    "beit3_base_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vit_small_r26_s32_224",
    "vit_base_mci_224",
    "vit_medium_patch16_clip_224.tinyclip_yfcc15m",
    "vit_base_patch16_plus_clip_240",
    "vit_base_patch14_reg1_tipsv2",
    "vit_small_patch16_dinov3",
    "vit_tiny_patch16_dinov3_qkvb",
    "eva02_small_patch14_336",
    "eva02_large_patch14_clip_224",
    "vit_pe_core_base_patch16_224",
    "vit_pe_spatial_tiny_patch16_512",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_ape_224",
    "vit_small_patch16_lingbot",
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", READ)
def test_every_family_documented_as_readable_is(architecture):
    torch.manual_seed(0)
    # A narrower network has the same modules. MCi's stem has the width of its blocks and cannot be narrower.
    narrow = {} if architecture == "vit_base_mci_224" else {"embed_dim": 96, "num_heads": 3}
    model = TimmModel.create(architecture, name="model", depth=2, **narrow).eval().double()
    network, maps = unfused(model)
    images = random_images(model, batch=1, dtype=torch.float64)
    with torch.no_grad():
        rows = model(images, {ROWS: (0, 1)}).cls_attention
        network.forward_features(images)
    expected = torch.stack([row_of(attention_map, model.spec.prefix_tokens) for attention_map in maps], dim=1)
    grid_rows, grid_columns = model.spec.grid
    assert rows.shape == (1, 2, model.spec.heads, 1 + grid_rows * grid_columns)
    assert max_error(rows, expected) < 1e-12
