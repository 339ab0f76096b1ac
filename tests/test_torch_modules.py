"""What needs PyTorch: cylstm.torch's modules beside PyTorch's own, layers made of modules, the whole grid of files."""

import copy
import io
import itertools
import pickle
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

import cylstm  # noqa: E402
import cylstm.torch  # noqa: E402

MAKE = Path(__file__).parent / "golden" / "interop" / "make_torch.py"
DOUBLE = {"dtype": torch.float64}
KINDS = ("LSTM", "GRU", "RNN")

kinds = pytest.mark.parametrize("kind", KINDS)


def modules(kind, *arguments, **options):
    """PyTorch's module and the one of cylstm.torch, made with one seed."""
    made = []
    for place in (nn, cylstm.torch):
        torch.manual_seed(0)
        made.append(getattr(place, kind)(*arguments, **options))
    return made


def initial_state(module, batch):
    """A random one, as the module takes it; a leaf."""
    layers = module.num_layers * (1 + module.bidirectional)
    h = torch.randn(layers, *batch, module.proj_size or module.hidden_size, **DOUBLE, requires_grad=True)
    if not isinstance(module, nn.LSTM):
        return h
    return h, torch.randn(layers, *batch, module.hidden_size, **DOUBLE, requires_grad=True)


def tensors_of(state):
    return () if state is None else state if isinstance(state, tuple) else (state,)


def assert_close(actual, desired, tolerance=1e-12):
    assert actual.shape == desired.shape and actual.dtype == desired.dtype
    assert ((actual - desired).abs() <= tolerance * desired.abs().clamp(min=1)).all()


def results(module, x, state, lengths=None, enforce_sorted=False):
    """Outputs and all gradients of one call."""
    torch.manual_seed(1)
    given = x
    if lengths is not None:
        given = pack_padded_sequence(x, lengths, module.batch_first, enforce_sorted)
    y, state_n = module(given, state)
    if lengths is not None:
        y, _ = pad_packed_sequence(y, module.batch_first)
    outputs = (y, *tensors_of(state_n))
    loss = sum((output * torch.randn_like(output)).sum() for output in outputs)
    gradients = torch.autograd.grad(loss, [x, *tensors_of(state), *module.parameters()])
    return [tensor.detach() for tensor in (*outputs, *gradients)]


GRID = [
    (kind, {"num_layers": layers, "bidirectional": two, "bias": bias, "batch_first": batch_first, **options})
    for (kind, options), layers, two, bias, batch_first in itertools.product(
        (("LSTM", {}), ("LSTM", {"proj_size": 2}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})),
        (1, 2), (False, True), (True, False), (False, True),
    )
]  # fmt: skip


@pytest.mark.parametrize("kind, options", GRID[::3], ids=lambda value: value if isinstance(value, str) else str(value))
def test_a_module_is_what_pytorchs_is(kind, options):
    theirs, ours = modules(kind, 3, 4, **options, **DOUBLE)
    assert all(torch.equal(p, q) for p, q in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    axes = (4, 5) if ours.batch_first else (5, 4)
    x = torch.randn(*axes, 3, **DOUBLE, requires_grad=True)
    alone = torch.randn(5, 3, **DOUBLE, requires_grad=True)
    state = initial_state(ours, (4,))
    for arguments in (
        (x, None), (x, state), (x, None, [5, 3, 3, 1], True), (x, state, [3, 5, 1, 3]),
        (alone, None), (alone, initial_state(ours, ())),
    ):  # fmt: skip
        for actual, desired in zip(results(ours, *arguments), results(theirs, *arguments), strict=True):
            assert_close(actual, desired)


@pytest.mark.parametrize("kind, options", GRID[::5], ids=lambda value: value if isinstance(value, str) else str(value))
def test_gradcheck(kind, options):
    _, module = modules(kind, 2, 3, **options, **DOUBLE)
    x = torch.randn(2, 3, 2, **DOUBLE, requires_grad=True)
    state = initial_state(module, (2,) if module.batch_first else (3,))
    names = [name for name, _ in module.named_parameters()]

    def function(x, *tensors):
        count = len(tensors_of(state))
        given = tensors[:count] if count == 2 else tensors[0]
        parameters = dict(zip(names, tensors[count:], strict=True))
        y, state_n = torch.func.functional_call(module, parameters, (x, given))
        return y, *tensors_of(state_n)

    assert torch.autograd.gradcheck(function, (x, *tensors_of(state), *module.parameters()), fast_mode=True)


@kinds
def test_float32_is_near_pytorchs(kind):
    theirs, ours = modules(kind, 10, 20, 2, bidirectional=True)
    x = torch.randn(30, 4, 10)
    assert_close(ours(x)[0], theirs(x)[0], 2e-5)
    assert ours(x)[0].dtype == torch.float32


@kinds
def test_a_training_goes_as_pytorchs(kind):
    x, losses = torch.randn(6, 3, 2, **DOUBLE), []
    for module in modules(kind, 2, 5, **DOUBLE):
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        for _ in range(5):
            optimizer.zero_grad()
            loss = (module(x)[0] - 0.3).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    assert_close(losses[1], losses[0], 1e-10)


def change_data(module):
    module.weight_hh_l0.data.mul_(0.5)


def change_numpy(module):
    module.bias_ih_l0.detach().numpy()[:] += 1


def change_in_place(module):
    with torch.no_grad():
        module.weight_ih_l0.add_(1)


def change_attribute(module):
    module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.detach() * 2)


def change_by_load(module):
    module.load_state_dict({name: -value for name, value in module.state_dict().items()})


@kinds
@pytest.mark.parametrize(
    "change", [change_data, change_numpy, change_in_place, change_attribute, change_by_load]
)
def test_parameters_are_never_stale(kind, change):
    theirs, ours = modules(kind, 3, 4, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE)
    before = ours(x)[0]
    change(ours)
    theirs.load_state_dict(ours.state_dict())
    after = ours(x)[0]
    assert not torch.equal(before, after)
    assert_close(after, theirs(x)[0])


def test_the_sign_of_a_zero_is_a_change():
    _, rnn = modules("RNN", 3, 4)
    for zero in (0.0, -0.0):
        with torch.no_grad():
            rnn.bias_ih_l0.fill_(zero)
        rnn(torch.ones(5, 2, 3))
        _, layer = rnn._kept.layer
        assert (np.signbit(layer.parameters["bias_ih_l0"]) == np.signbit(zero)).all()


def test_two_forwards_before_their_backwards():
    _, lstm = modules("LSTM", 3, 4, **DOUBLE)
    one, two = (torch.randn(5, 2, 3, **DOUBLE, requires_grad=True) for _ in range(2))
    alone = [torch.autograd.grad(lstm(x)[0].square().sum(), x)[0] for x in (one, two)]
    y, z = lstm(one)[0], lstm(two)[0]
    assert torch.equal(torch.autograd.grad(y.square().sum(), one)[0], alone[0])
    assert torch.equal(torch.autograd.grad(z.square().sum(), two)[0], alone[1])


def test_a_graph_that_is_retained_goes_backward_again():
    _, lstm = modules("LSTM", 3, 4, 2, dropout=0.5, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE, requires_grad=True)
    loss = lstm(x)[0].square().sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, x)[0], first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, x)


def test_parameters_that_change_before_backward_are_an_error():
    _, gru = modules("GRU", 3, 4)
    loss = gru(torch.ones(5, 2, 3))[0].sum()
    change_in_place(gru)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_second_derivative_is_an_error_and_not_zero():
    _, gru = modules("GRU", 3, 4, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE, requires_grad=True)
    (first,) = torch.autograd.grad(gru(x)[0].sum(), x, create_graph=True)
    assert torch.equal(first, torch.autograd.grad(gru(x)[0].sum(), x)[0])
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        first.square().sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # which PyTorch's make_dual calls
@pytest.mark.parametrize("of_weights", [False, True])
def test_a_forward_mode_derivative_is_an_error_and_not_zero(of_weights):
    _, gru = modules("GRU", 3, 4)
    gru.requires_grad_(False)
    x = torch.ones(5, 2, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual
        if of_weights:
            weight = gru.weight_hh_l0
            del gru.weight_hh_l0
            gru.weight_hh_l0 = dual(weight.detach(), torch.ones_like(weight))
        else:
            x = dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="has a tangent: modules"):
            gru(x)


def test_gradients_of_a_part_of_the_outputs():
    theirs, ours = modules("LSTM", 3, 4, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE)
    for part in (lambda y, h, c: h, lambda y, h, c: c, lambda y, h, c: y[2]):
        for module in (theirs, ours):
            module.zero_grad()
            y, (h, c) = module(x)
            part(y, h, c).sum().backward()
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            assert_close(q.grad, p.grad)


def test_gradients_are_asked_for_where_they_are_needed():
    _, rnn = modules("RNN", 3, 4)
    x = torch.ones(5, 2, 3)
    assert rnn(x)[0].requires_grad
    with torch.no_grad():
        assert not rnn(x)[0].requires_grad
    with torch.inference_mode():
        assert rnn(x)[0].is_inference()
    rnn.requires_grad_(False)
    assert not rnn(x)[0].requires_grad
    x.requires_grad_()
    rnn(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0 and rnn.weight_ih_l0.grad is None


def test_dropout_is_seeded_by_pytorch_and_acts_in_training():
    _, lstm = modules("LSTM", 3, 40, 2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    torch.manual_seed(7)
    one, two = lstm(x)[0], lstm(x)[0]
    torch.manual_seed(7)
    assert torch.equal(lstm(x)[0], one) and not torch.equal(one, two)
    with torch.no_grad():  # as in PyTorch, which looks at module.training alone
        torch.manual_seed(7)
        assert torch.equal(lstm(x)[0], one)
    reference = nn.LSTM(3, 40, 2)
    reference.load_state_dict(lstm.state_dict())
    assert_close(lstm.eval()(x)[0], reference(x)[0], 2e-5)
    torch.manual_seed(7)
    after = torch.rand(1)
    torch.manual_seed(7)
    lstm(x)  # draws nothing
    assert torch.equal(torch.rand(1), after)


def test_dropout_keeps_the_mean():
    _, gru = modules("GRU", 2, 3, 2, dropout=0.3, **DOUBLE)
    with torch.no_grad():
        for name, value in gru.named_parameters():
            if name.endswith("l1"):
                value.mul_(1e-3)  # where the second layer is linear in what it is given
        x = torch.randn(2, 1, 2, **DOUBLE).expand(2, 4000, 2)
        mean = gru(x)[0].mean(1)
        assert_close(mean, gru.eval()(x)[0].mean(1), 1e-4)


@kinds
def test_copies_are_their_own(kind):
    _, module = modules(kind, 3, 4)
    x = torch.randn(5, 2, 3)
    y = module(x)[0]
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(stream, weights_only=False)
    ):  # fmt: skip
        assert type(other) is type(module) and torch.equal(other(x)[0], y)
        change_in_place(other)
        assert not torch.equal(other(x)[0], y) and torch.equal(module(x)[0], y)


@kinds
def test_state_dicts_go_both_ways(kind):
    theirs, ours = modules(kind, 3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    change_in_place(theirs)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours(x)[0], theirs(x)[0], 2e-5)
    change_in_place(ours)
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(x)[0], theirs(x)[0], 2e-5)


def test_a_module_is_double_or_float():
    _, lstm = modules("LSTM", 3, 4)
    x = torch.ones(5, 2, 3)
    assert lstm.double()(x.double())[0].dtype == torch.float64
    with pytest.raises(TypeError, match=r"input is of dtype torch.float32, expected torch.float64"):
        lstm(x)
    with pytest.raises(TypeError, match=r"parameters are of dtype torch.float16, .*: use module.float\(\)"):
        lstm.half()(x.half())
    with pytest.raises(TypeError, match=r"weight_hh_l0 is of dtype torch.float64"):
        lstm.float().weight_hh_l0.data = lstm.weight_hh_l0.data.double()
        lstm(x)
    with pytest.raises(ValueError, match="is on meta, expected the CPU"):
        lstm.to("meta")(x)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((torch.ones(5, 2, 2),), ValueError, r"input has shape \(5, 2, 2\), expected \(seq_len, batch, input_size=3\)"),
        ((torch.ones(3),), ValueError, r"input has shape \(3,\)"),
        ((torch.ones(5, 2, 3).numpy(),), TypeError, "input is a ndarray, expected a torch"),
        ((torch.ones(5, 2, 3), (torch.ones(1, 2, 4), None)), TypeError, "hx is a NoneType, expected a torch.Tensor"),
        ((torch.ones(5, 2, 3), torch.ones(1, 2, 4)), TypeError, "expected a tuple of two arrays"),
        ((torch.ones(5, 2, 3), (torch.ones(1, 2, 4), torch.ones(1, 3, 4))), ValueError, "state c has shape"),
        ((torch.ones(5, 2, 3), (torch.ones(1, 4), torch.ones(1, 4))), ValueError, "state h has shape"),
        ((torch.ones(5, 2, 3), (torch.ones(1, 2, 4).double(),) * 2), TypeError, "hx is of dtype torch.float64"),
        ((torch.ones(5, 2, 3), (None, None)), TypeError, "hx is a NoneType, expected a torch"),
        ((torch.ones(5, 2, 3).numpy(),), TypeError, "input is a ndarray, expected a torch"),
    ],
)
def test_what_does_not_fit_is_said(arguments, error, words):
    _, lstm = modules("LSTM", 3, 4)
    with pytest.raises(error, match=words):
        lstm(*arguments)


def test_compiled_it_is_gone_around():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = cylstm.torch.GRU(3, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.rnn(2 * x)[0]).relu()

    model, x = Model(), torch.randn(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own, as it loads its compiler
        compiled = torch.compile(model, backend="eager")(x)
    assert torch.equal(compiled, model(x))
    compiled.sum().backward()
    assert model.rnn.weight_hh_l0.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_it_is_an_error():
    _, gru = modules("GRU", 3, 4)
    with pytest.raises(RuntimeError, match="can not be traced"):
        torch.jit.trace(gru, torch.ones(5, 2, 3))


def test_no_row_and_no_step():
    _, lstm = modules("LSTM", 3, 4)
    assert lstm(torch.ones(0, 2, 3))[0].shape == (0, 2, 4)
    y, _ = lstm(torch.ones(5, 0, 3))
    y.sum().backward()
    assert y.shape == (5, 0, 4) and not lstm.weight_ih_l0.grad.any()


def test_a_packed_sequence_keeps_its_order():
    _, gru = modules("GRU", 3, 4)
    packed = pack_padded_sequence(torch.randn(5, 3, 3), [2, 5, 3], enforce_sorted=False)
    y, _ = gru(packed)
    assert isinstance(y, PackedSequence)
    assert torch.equal(y.batch_sizes, packed.batch_sizes) and torch.equal(y.unsorted_indices, packed.unsorted_indices)
    assert y.data.shape == (10, 4)


def test_parametrised_weights_get_their_gradients():
    theirs, ours = modules("LSTM", 3, 4, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE)
    for module in (theirs, ours):
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
        module(x)[0].sum().backward()
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert_close(q.grad, p.grad)


def test_the_output_is_no_view_of_what_a_module_keeps():
    _, lstm = modules("LSTM", 3, 4)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        y = lstm(x)[0]
        kept = y.clone()
        lstm(x + 1)
        assert torch.equal(y, kept)
        y.zero_()
        assert torch.equal(lstm(x)[0], kept)


# Layers of modules


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_the_whole_grid():
    make = runpy.run_path(str(MAKE))
    torch.manual_seed(0)
    whole = make["cases"]()
    assert len(whole) > 180
    make["check"](whole)


def test_a_sequential_of_modules_becomes_one_of_layers():
    module = nn.Sequential()
    parts = {
        "in": nn.Linear(3, 4), "relu": nn.ReLU(), "norm": nn.LayerNorm(4), "gelu": nn.GELU(), "drop": nn.Dropout(0.3),
        "inner": nn.Sequential(nn.Linear(4, 4, bias=False), nn.Softmax(-1)), "leaky": nn.LeakyReLU(0.2),
        "silu": nn.SiLU(), "hard": nn.Hardsigmoid(), "elu": nn.ELU(0.5), "plus": nn.Softplus(), "sign": nn.Softsign(),
        "same": nn.Identity(), "bare": nn.LayerNorm(4, elementwise_affine=False), "tanh": nn.Tanh(),
        "sigmoid": nn.Sigmoid(), "no_bias": nn.LayerNorm(4, bias=False, eps=1e-3),
    }  # fmt: skip
    for name, part in parts.items():
        module.add_module(name, part)
    module = module.double().eval()
    model = cylstm.from_torch(module)
    x = torch.randn(2, 7, 3, **DOUBLE)
    assert [name for name, _ in model._parts] == list(parts)
    for count in range(1, len(parts) + 1):  # each part, and not what the ones behind it make of an error
        desired = module[:count](x).detach()
        actual, _ = cylstm.from_torch(module[:count], dtype="float64").forward(x.numpy())
        assert_close(torch.from_numpy(np.ascontiguousarray(actual)), desired)
    assert repr(model["drop"]) == "Dropout(0.3)"


def test_a_recurrent_module_in_a_sequential():
    module = nn.Sequential(nn.Embedding(9, 3, padding_idx=0), nn.GRU(3, 4, batch_first=True))
    x = torch.randint(0, 9, (2, 6))
    model = cylstm.from_torch(module)
    assert_close(torch.from_numpy(model.forward(x.numpy())[0]), module(x)[0].detach(), 2e-5)
    assert not model.parameters["0.weight"][0].any()
    assert cylstm.to_torch_state_dict(model).keys() == module.state_dict().keys()


def test_flatten():
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()
    x = torch.randn(4, 3, 2, **DOUBLE)
    assert_close(torch.from_numpy(cylstm.from_torch(module).forward(x.numpy())[0]), module(x).detach())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"rnn": nn.GRU(3, 4, batch_first=True)})
        self.fc = nn.Linear(4, 2)
        self.conv = nn.Conv1d(3, 4, 3)


class Doubled(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


class Named(nn.LSTM):
    pass


class Ours(cylstm.torch.LSTM):
    pass


def test_modules_are_taken_out_of_others():
    net = Net()
    assert repr(cylstm.from_torch(net, "encoder.rnn")) == "GRU(3, 4, batch_first=True)"
    for cls in (Named, Ours, cylstm.torch.LSTM):
        assert repr(cylstm.from_torch(cls(3, 4))) == "LSTM(3, 4)"
    patched = nn.GRU(3, 4)
    patched.forward = net.fc.forward
    with pytest.raises(ValueError, match="what that computes is in its code alone"):
        cylstm.from_torch(patched)
    words = r"the module is a .*\.Net, .*In it are encoder.rnn \(GRU\), fc \(Linear\): take them one by one"
    with pytest.raises(ValueError, match=words):
        cylstm.from_torch(net)
    with pytest.raises(ValueError, match=r"there is no module at prefix 'encoder.lstm'\. In it are rnn \(GRU\)"):
        cylstm.from_torch(net, "encoder.lstm")
    with pytest.raises(ValueError, match=r"'conv' is a torch\.nn\.modules\.conv\.Conv1d"):
        cylstm.from_torch(net, "conv")
    with pytest.raises(ValueError, match=r"Doubled, and what that computes is in its code alone"):
        cylstm.from_torch(Doubled(3, 4))
    with pytest.raises(ValueError, match=r"'1' is a .*Net"):
        cylstm.from_torch(nn.Sequential(nn.ReLU(), net))


@pytest.mark.parametrize(
    "module, words",
    [
        (lambda: nn.Embedding(9, 3, max_norm=1.0), "max_norm is 1.0, expected None"),
        (lambda: nn.LayerNorm((3, 4)), r"normalized_shape is \(3, 4\), expected one axis"),
        (lambda: nn.Softmax(dim=1), "dim of Softmax is 1, expected -1"),
        (lambda: nn.GELU(approximate="tanh"), "approximate of GELU is 'tanh', expected 'none'"),
        (lambda: nn.Softplus(beta=2), "beta of Softplus is 2, expected 1"),
        (lambda: nn.Flatten(2), "start_dim of Flatten is 2, expected 1"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Softmax(dim=1)), "^1: dim of Softmax"),
        (lambda: nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv1d(3, 4, 3))), "^'0.1' is a torch.*Conv1d"),
        (lambda: nn.LSTM(3, 4, device="meta"), "weight_ih_l0 can not be read"),
        (lambda: nn.LazyLinear(3), "LazyLinear"),
        (lambda: torch.jit.script(nn.Linear(3, 4)), "RecursiveScriptModule"),
        (lambda: nn.ModuleList([nn.ReLU()]), r"ModuleList, .*In it are 0 \(ReLU\)"),
    ],
)
def test_modules_that_no_layer_is_like(module, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modules that are lazy, or scripts
        module = module()
    with pytest.raises(ValueError, match=words):
        cylstm.from_torch(module)


def test_hooks_that_may_change_numbers_are_no_part_of_a_layer():
    from torch.nn.utils import prune

    doubled = nn.LSTM(3, 4)
    doubled.register_forward_hook(lambda module, args, output: (2 * output[0], output[1]))
    halved = nn.Sequential(nn.ReLU(), nn.Linear(3, 4))
    handle = halved[1].register_forward_pre_hook(lambda module, args: args[0] / 2)
    pruned = prune.l1_unstructured(nn.Linear(3, 4), "weight", 0.5)
    for module, words in (
        (doubled, "^it has the hook .*lambda"), (halved, "^1: it has the hook"), (pruned, "L1Unstructured, .*remove"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            cylstm.from_torch(module)
    handle.remove()
    assert repr(cylstm.from_torch(halved)) == "Sequential([Activation('relu'), Dense(3, 4)])"


def test_a_module_says_all_by_itself():
    with pytest.raises(ValueError, match="batch_first came with a module, which says it itself"):
        cylstm.from_torch(nn.LSTM(3, 4), batch_first=True)
    with pytest.raises(TypeError, match=r"is a type, expected a torch\.nn\.Module"):
        cylstm.from_torch(nn.LSTM)
    with pytest.raises(ValueError, match="kind came with a module"):
        cylstm.from_torch(nn.LSTM(3, 4), kind="LSTM")
    layer = cylstm.from_torch(nn.RNN(3, 4, 2, "relu", dropout=0.5, batch_first=True), dtype="float64")
    assert repr(layer) == (
        "RNN(3, 4, num_layers=2, batch_first=True, dropout=0.5, dtype='float64', nonlinearity='relu')"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_become_float32(dtype):
    module = nn.GRU(3, 4).to(dtype)
    layer = cylstm.from_torch(module)
    assert layer.dtype == np.float32
    for name, value in module.state_dict().items():
        assert (layer.parameters[name] == value.float().numpy()).all()
    again = cylstm.from_torch(module.state_dict(), batch_first=False)
    assert all((again.parameters[name] == value).all() for name, value in layer.parameters.items())


def test_weights_that_are_computed():
    x = torch.randn(5, 2, 3)
    old = nn.LSTM(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(old, "weight_hh_l0")
    with torch.no_grad():
        old.weight_hh_l0_g.mul_(2)  # the weight itself follows in the next forward
    new = nn.LSTM(3, 4)
    nn.utils.parametrizations.weight_norm(new, "weight_hh_l0")
    spectral = nn.utils.spectral_norm(nn.Linear(3, 4)).eval()
    with torch.no_grad():
        spectral.weight_orig.add_(1)  # the weight itself follows in the next forward
    assert_close(torch.from_numpy(cylstm.from_torch(spectral).forward(x.numpy())), spectral(x).detach(), 2e-5)
    for module in (old, new):
        y, _ = cylstm.from_torch(module).forward(x.numpy())
        assert_close(torch.from_numpy(y), module(x)[0].detach(), 2e-5)
        with pytest.raises(ValueError, match=r"weight_norm\), give the module itself"):
            cylstm.from_torch(module.state_dict(), batch_first=False)


@pytest.mark.parametrize(
    "layer, module",
    [
        (cylstm.LSTM(3, 4, 2, bidirectional=True, proj_size=2, rng=0),
         nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)),
        (cylstm.LSTM(3, 4, bias="single", rng=0), nn.LSTM(3, 4)),
        (cylstm.GRU(3, 4, bias=False, rng=0), nn.GRU(3, 4, bias=False)),
        (cylstm.RNN(3, 4, nonlinearity="relu", rng=0), nn.RNN(3, 4, nonlinearity="relu")),
        (cylstm.Dense(3, 4, rng=0), nn.Linear(3, 4)),
        (cylstm.LayerNorm(3), nn.LayerNorm(3)),
        (cylstm.Sequential([cylstm.Dense(3, 4, rng=0), cylstm.Activation("relu"), cylstm.Dense(4, 2, rng=1)]),
         nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))),
    ],
    ids=repr,
)  # fmt: skip
def test_pytorch_loads_what_a_layer_gives(layer, module):
    state_dict = {name: torch.from_numpy(value) for name, value in cylstm.to_torch_state_dict(layer).items()}
    module.load_state_dict(state_dict)
    x = torch.randn(5, 2, 3)
    actual, desired = layer.forward(x.numpy()), module(x)
    if isinstance(actual, tuple):
        actual = actual[0]
    desired = desired[0] if isinstance(desired, tuple) else desired
    assert_close(torch.from_numpy(actual), desired.detach(), 2e-5)


def test_a_library_without_pytorch_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "cylstm.torch")
    monkeypatch.delattr(cylstm, "torch")
    with pytest.raises(ImportError, match=r"cylstm\.torch needs PyTorch"):
        _ = cylstm.torch
