"""The CPU lane against the installed SGLang, each in a process of its own as a worker is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pdcache.sglang_cpu import (
    ATTENTION_BACKEND,
    HOST_RESERVE_ENV,
    SERVER_FLAGS,
    STOCK_ENV,
    pythonpath_folder,
    worker_environment,
)
from pdcache.sglang_cpu.host_pools import POOL_MODULES, copy_operations
from pdcache.sglang_cpu.tokenizers import USERS

ROOT = Path(__file__).resolve().parents[2]
SGLANG = Path(find_spec("sglang").origin).parent


def run(code, *, with_folder=True, path_after=(), **environment):
    """Run `code` as a CPU worker's process: its environment, and its folder on the path."""
    folders = [str(pythonpath_folder())] if with_folder else [str(ROOT)]
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **{name: value for name, value in os.environ.items() if name != HOST_RESERVE_ENV},
            **worker_environment(),
            "PYTHONPATH": os.pathsep.join([*folders, *map(str, path_after)]),
            **environment,
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
    )


def printed(code, **options):
    done = run(code, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_sgl_kernel_is_not_importable_without_the_folder():
    code = "import importlib.util as util; print(util.find_spec('sgl_kernel'))"
    assert printed(code, with_folder=False) == "None"
    assert "pdcache/sglang_cpu/pythonpath/sgl_kernel" in printed(code)


@pytest.mark.parametrize(
    "gpu", ["torch.cuda.is_available = lambda: True", "torch.version.hip = '6.4'"]
)
def test_sgl_kernel_refuses_a_machine_with_a_gpu(gpu):
    done = run(f"import torch; {gpu}; import sgl_kernel")
    assert done.returncode != 0
    assert "ImportError: this sgl_kernel is pdcache's stand-in for machines without a GPU" in (
        done.stderr
    )


def test_an_operation_that_is_not_supplied_says_so_on_call():
    done = run("from sgl_kernel import verify_tree_greedy_cpu as verify; verify(1, 2)")
    assert "NotImplementedError: sgl_kernel.verify_tree_greedy_cpu is not supplied" in done.stderr
    done = run("from sgl_kernel import transfer_kv_direct")
    assert "ImportError" in done.stderr


def test_the_plugin_is_discovered_only_with_the_folder_on_the_path():
    code = (
        "from importlib.metadata import entry_points\n"
        "print([entry.name for entry in entry_points(group='sglang.srt.plugins')])"
    )
    assert "pdcache_cpu" not in printed(code, with_folder=False)
    assert "pdcache_cpu" in printed(code)


def test_the_folders_sitecustomize_runs_the_one_it_hides(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.hidden_one_ran = True")
    assert printed("import sys; print(sys.hidden_one_ran)", path_after=[tmp_path]) == "True"


def test_a_python_start_with_the_folder_imports_nothing_heavy():
    code = "import sys; print({'torch', 'sglang', 'pdcache', 'torchvision'} & set(sys.modules))"
    assert printed(code) == "set()"


def test_torchvision_imports_with_the_folder():
    assert printed("import torchvision.transforms, torch; print(torch.ops.torchvision.nms)")


def imported_copies(module):
    """The `transfer_kv_*` names a module of SGLang imports from `sgl_kernel.kvcacheio`."""
    parts = module.split(".")[1:]
    source = SGLANG.joinpath(*parts).with_suffix(".py").read_text()
    return {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == "sgl_kernel.kvcacheio"
        for alias in node.names
        if alias.name.startswith("transfer_kv_")
    }


@pytest.mark.parametrize("module", POOL_MODULES)
def test_every_copy_a_pool_module_imports_is_supplied(module):
    names = imported_copies(module)
    assert names
    assert names <= copy_operations().keys()


def test_every_pool_module_that_imports_copies_is_bound():
    folder = SGLANG / "srt" / "mem_cache" / "pool_host"
    modules = {f"sglang.srt.mem_cache.pool_host.{file.stem}" for file in folder.glob("*.py")}
    assert {module for module in modules if imported_copies(module)} <= set(POOL_MODULES)


LOADED = """
import json, torch
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod as Linear
from sglang.srt.models.llama import LlamaModel
from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender
from sglang.srt.mem_cache.pool_host import base, mha
from sglang.srt.managers.cache_controller import HiCacheController as Controller
from sglang.srt.mem_cache.hybrid_cache import hybrid_cache_controller as hybrid
import sgl_kernel.kvcacheio as supplied
print(json.dumps({
    "attention": ATTENTION_BACKENDS["pdcache_cpu"].__module__,
    "packed": sorted({step.__module__ for step in (
        Linear.apply, Linear.process_weights_after_loading, LogitsProcessor._compute_lm_head)}),
    "layers": LlamaModel.forward.__module__,
    "storage": [*{step.__globals__["__name__"] for step in (
        Controller.prefetch_io_aux_func, Controller.backup_thread_func,
        Controller._page_get_zero_copy, Controller._page_set_zero_copy,
        hybrid.HybridCacheController.backup_thread_func)}],
    "sender": MooncakeKVSender.supports_host_tensor_indices,
    "reserve": base.HICACHE_HOST_MEMORY_RESERVE_BYTES,
    "budget": base.host_memory_budget_bytes(),
    "available": base.available_host_memory_bytes(),
    "copy_is_ours": mha.transfer_kv_direct is supplied.transfer_kv_direct,
    "stream": torch.cpu.Stream().synchronize(),
}))
"""


def test_sglangs_own_plugin_loader_applies_every_replacement():
    reserve = 3 * 1024**3
    state = json.loads(printed(LOADED, **{HOST_RESERVE_ENV: str(reserve)}))
    assert state["attention"] == "pdcache.sglang_cpu.attention_backend"
    assert state["packed"] == ["pdcache.sglang_cpu.linear"]
    assert state["layers"] == "pdcache.sglang_cpu.decoder"
    assert state["storage"] == ["pdcache.sglang_cpu.storage_threads"]
    assert state["sender"] is False
    assert state["reserve"] == reserve
    # The reserve is in force, not merely assigned; the machine's free memory moves meanwhile.
    assert abs(state["available"] - state["budget"] - reserve) < 1024**3
    assert state["copy_is_ours"]


def test_sglangs_own_layers_can_be_kept_for_comparison():
    state = json.loads(printed(LOADED, **{STOCK_ENV: "1"}))
    assert not any(name.startswith("pdcache") for name in (*state["packed"], state["layers"]))
    assert state["copy_is_ours"]


LOAD_WITH = """
from sglang.srt.plugins import load_plugins
{change}
load_plugins()
print("went on")
"""


@pytest.mark.parametrize(
    ("change", "environment", "said"),
    [
        pytest.param(
            "import sglang.srt.mem_cache.pool_host.base as base\n"
            "del base.HICACHE_HOST_MEMORY_RESERVE_BYTES",
            {},
            ["base.HICACHE_HOST_MEMORY_RESERVE_BYTES does not exist", "SGLang 0.5.23"],
            id="a target is missing",
        ),
        pytest.param(
            "",
            {HOST_RESERVE_ENV: "10GB"},
            [f"{HOST_RESERVE_ENV}='10GB' is not a whole number of bytes"],
            id="the reserve is not a number",
        ),
        pytest.param(
            "",
            {"SGLANG_USE_CPU_ENGINE": "0"},
            ["set SGLANG_USE_CPU_ENGINE=1"],
            id="not the CPU engine",
        ),
    ],
)
def test_a_plugin_that_cannot_apply_ends_the_process_loudly(change, environment, said):
    done = run(LOAD_WITH.format(change=change), **environment)
    assert done.returncode == 1
    assert "went on" not in done.stdout
    assert "pdcache CPU lane" in done.stderr
    for text in said:
        assert text in done.stderr


BACKENDS = """
import torch
from types import SimpleNamespace
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor.forward_batch_info import ForwardMode

torch.manual_seed(0)
dim = DIM
pool = MHATokenToKVPool(size=64, page_size=1, dtype=torch.float32, head_num=2, head_dim=dim,
                        layer_num=1, device="cpu", enable_memory_saver=False)
for buffer in (*pool.k_buffer, *pool.v_buffer):
    buffer.copy_(torch.randn(buffer.shape))
table = torch.randperm(64, dtype=torch.int32).view(2, 32)
runner = SimpleNamespace(device="cpu", token_to_kv_pool=pool,
                         req_to_token_pool=SimpleNamespace(req_to_token=table))
ours, stock = (ATTENTION_BACKENDS[name](runner) for name in ("pdcache_cpu", "torch_native"))
rows, prefixes, new = torch.tensor([1, 0]), torch.tensor([9, 0]), torch.tensor([5, 7])

def same(mode, counts, layer_options={}, encoder=None):
    layer = RadixAttention(4, dim, 0.4, 2, 0, **layer_options)
    before = prefixes if mode.is_extend() else prefixes + 6
    batch = SimpleNamespace(
        forward_mode=mode, req_pool_indices=rows, seq_lens=before + counts, encoder_lens=encoder,
        extend_prefix_lens=before if mode.is_extend() else None,
        extend_seq_lens=counts if mode.is_extend() else None, encoder_out_cache_loc=None,
        out_cache_loc=torch.cat([table[row, start:start + count] for row, start, count in
                                 zip(rows, before, counts)]).long())
    tokens = int(counts.sum())
    q = torch.randn(tokens, 4 * dim)
    k, v = torch.randn(2, tokens, 2, dim)
    answers = []
    for backend in (stock, ours):
        backend.init_forward_metadata(batch)
        save = not layer.is_cross_attention
        answers.append(backend.forward(q, k, v, layer, batch, save_kv_cache=save))
    return torch.allclose(*answers, atol=1e-5) and answers[0].shape == answers[1].shape

one = torch.ones(2, dtype=torch.int64)
for mode, counts in ((ForwardMode.EXTEND, new), (ForwardMode.DECODE, one)):
    print(same(mode, counts), same(mode, counts, dict(sliding_window_size=3)),
          same(mode, counts, encoder=torch.tensor([2, 3])),
          same(mode, counts, dict(is_cross_attention=True), torch.tensor([4, 6])))
print(same(ForwardMode.EXTEND, new, dict(attn_type=AttentionType.ENCODER_ONLY)))
"""


@pytest.mark.parametrize("dim", [8, 16], ids="heads of {}".format)
def test_the_lanes_backend_gives_what_sglangs_own_gives_in_every_kind_of_layer(dim):
    assert printed(f"DIM = {dim}\n{BACKENDS}").split() == ["True"] * 9


def test_the_lane_says_what_sglangs_own_path_says_token_for_token(tmp_path):
    # A text that stays: in bfloat16 it is the prompt that decides how near two tokens come.
    text = find_spec("pydoc_data.topics").origin
    words = ["--model", "tiny-random", "--prompts", "20", "--tokens", "12", "--longest", "200"]
    words += ["--text", text]
    script = ROOT / "scripts" / "bench" / "cpu_tokens.py"
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


MODEL_LAYERS = """
import sys
sys.path.insert(0, BENCH)
from sglang_in_process import stock_and_lane
from pdcache.models import resolve_model
from pdcache.sglang_cpu.decoder import PLAIN
from pdcache.sglang_cpu.linear import PACKED, PACKED_HEAD
stock, lane = stock_and_lane(resolve_model("tiny-random"), ["float32"], ["float32"], 1024)
for peer in (stock, lane):
    peer.greedy([[5, 6, 7]], 0, 2)
    model = peer._runner.torch_runner.model
    linear = model.model.layers[0].mlp.down_proj
    print(len(model.model.__dict__.get(PLAIN, ())), PACKED_HEAD in model.lm_head.__dict__,
          PACKED in linear.__dict__ and linear.weight.is_mkldnn,
          linear.weight.weight_loader is not None)
"""


def test_a_plain_models_layers_are_taken_as_such():
    code = f"BENCH = {str(ROOT / 'scripts' / 'bench')!r}\n{MODEL_LAYERS}"
    lines = [line for line in printed(code).splitlines() if line.endswith("True")]
    assert lines == ["0 False False True", "2 True True True"]


DECODE_STEP = """
import sys
sys.path.insert(0, BENCH)
from sglang_in_process import stock_and_lane
from pdcache.models import resolve_model
from pdcache.sglang_cpu import decoder
(lane,) = stock_and_lane(resolve_model("smollm2-135m"), [], ["float32"], 1024)
in_c, taken = decoder.decode_step, []
def counted(*batch):
    stepped = in_c(*batch)
    taken.append(stepped is not None)
    return stepped
prompts = [[*range(40 + at, 47 + 3 * at)] for at in range(6)]
said = []
for decoder.decode_step in (counted, lambda *batch: None):
    said.append(lane.greedy(prompts, 4, 8))
pairs = [pair for one, other in zip(*said) for pair in zip(one, other)]
print(taken == [False, False] + [True] * 7, all(one.token == other.token for one, other in pairs),
      max(abs(one.logit - other.logit) for one, other in pairs) < 1e-3)
"""


def test_a_decode_step_of_smollm_is_one_call_of_c_and_says_the_same():
    code = f"BENCH = {str(ROOT / 'scripts' / 'bench')!r}\n{DECODE_STEP}"
    assert printed(code).splitlines()[-1] == "True True True"


PREFILL_STEP = """
import sys
sys.path.insert(0, BENCH)
from sglang_in_process import stock_and_lane
from pdcache.models import resolve_model
from pdcache.sglang_cpu import cores, decoder
cores.usable, cores.running = lambda: 3, lambda: 1
(lane,) = stock_and_lane(resolve_model("smollm2-135m"), [], [DTYPE], 2048)
in_c, taken = decoder.prefill_step, []
def counted(*batch, **asked):
    stepped = in_c(*batch, **asked)
    taken.append((len(batch[2]), asked["last_only"], stepped is not None))
    return stepped
def whole(*batch, last_only):
    return in_c(*batch, last_only=False)
prompts = [[*range(40 + at, 140 + 9 * at)] for at in range(3)]
said = []
for decoder.prefill_step in (counted, whole, lambda *batch, **asked: None):
    said.append([one for answer in lane.greedy(prompts, 90, 3) for one in answer])
ours, whole, layers = said
print(taken == [(270, True, True), (54, True, True)], ours == whole,
      [one.token for one in ours] == [one.token for one in layers],
      max(abs(one.logit - other.logit) for one, other in zip(ours, layers)))
"""


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-3), ("bfloat16", 0.5)])
def test_a_step_of_new_tokens_of_smollm_is_cs_and_says_the_same(dtype, apart):
    code = f"BENCH, DTYPE = {str(ROOT / 'scripts' / 'bench')!r}, {dtype!r}\n{PREFILL_STEP}"
    taken, as_whole, tokens, most = printed(code).splitlines()[-1].split()
    assert (taken, as_whole) == ("True", "True")
    assert tokens == "True" or dtype == "bfloat16"
    assert float(most) < apart


def test_what_tells_that_only_last_tokens_are_read_is_there():
    code = """
import dataclasses
from sglang.srt.disaggregation.mooncake.conn import MooncakeKVManager
from sglang.srt.model_executor.forward_batch_info import (
    CaptureHiddenMode, ForwardBatch, ForwardMode)
names = {field.name for field in dataclasses.fields(ForwardBatch)}
print({"return_logprob", "capture_hidden_mode", "token_indices_to_pool",
       "multi_item_delimiter_indices"} <= names, ForwardMode.EXTEND.name == "EXTEND",
      not CaptureHiddenMode.NULL.need_capture(), CaptureHiddenMode.LAST.need_capture())
print("update_status" not in vars(MooncakeKVManager))
"""
    assert set(printed(code).split()) == {"True"}


LONG_STEP = """
import sys
sys.path.insert(0, BENCH)
from sglang_in_process import stock_and_lane
from pdcache.models import resolve_model
from pdcache.sglang_cpu import cores, decoder
cores.usable, cores.running = lambda: 3, lambda: 1
(lane,) = stock_and_lane(resolve_model("tiny-random"), [], ["float32"], 1024)
import torch
run, seen = decoder._run, []
def watched(*layer):
    done = run(*layer)
    if len(layer[1]) > 1:
        seen.append((len(layer[1]), torch.get_num_threads()))
    return done
decoder._run = watched
prompt = [[*range(40, 340)]]
said = [lane.greedy(prompt, cached, 6) for cached in (0, 64, 296)]
helped = [*seen]
cores.running = lambda: 9
said += [lane.greedy(prompt, 64, 6)]
tokens = [[one.token for one in answer] for (answer,) in said]
alone = seen[len(helped):]
print(helped[::2] == helped[1::2] == [(300, 3), (64, 3), (236, 3), (296, 3), (4, 1)],
      alone[::2] == alone[1::2] == [(64, 1), (236, 1)], torch.get_num_threads(),
      all(answer == tokens[0] for answer in tokens))
"""


def test_free_cores_help_a_long_step_and_it_says_the_same():
    code = f"BENCH = {str(ROOT / 'scripts' / 'bench')!r}\n{LONG_STEP}"
    assert printed(code).splitlines()[-1] == "True True 1 True"


def test_sglang_accepts_every_server_flag_with_its_value():
    words = [word for flag, value in SERVER_FLAGS.items() for word in (flag, value)]
    arguments = [word for word in words if word is not True]
    code = (
        "from sglang.srt.plugins import load_plugins; load_plugins()\n"
        "from sglang.srt.server_args import prepare_server_args\n"
        f"args = prepare_server_args(['--model-path', 'any', *{arguments!r}])\n"
        "print(args.device, args.attention_backend, args.sleep_on_idle)"
    )
    assert printed(code) == f"cpu {ATTENTION_BACKEND} True"


ROUND_TRIP = """
import itertools, json, torch
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

PAGE, LAYERS, TOKENS = 4, 3, 64

def device_pool(kind, dtype):
    common = dict(size=TOKENS, page_size=PAGE, dtype=dtype, layer_num=LAYERS, device="cpu",
                  enable_memory_saver=False)
    if kind == "mha":
        return MHATokenToKVPool(head_num=2, head_dim=8, **common)
    return MLATokenToKVPool(kv_lora_rank=12, qk_rope_head_dim=4, **common)

def buffers(kind, pool):
    return [*pool.k_buffer, *pool.v_buffer] if kind == "mha" else [*pool.kv_buffer]

def host_pool(kind, device, layout):
    info = device.get_device_pool_infos()[0].buffer_info
    common = dict(host_to_device_ratio=1.5, host_size=0, page_size=PAGE, layout=layout,
                  pin_memory=True, device_capacity_tokens=TOKENS, start_layer=0,
                  end_layer=LAYERS - 1)
    if kind == "mha":
        return MHATokenToKVPoolHost(info, **common)
    return MLATokenToKVPoolHost(info, target_layer_num=LAYERS, **common)

def slots(pages):
    return torch.tensor([p * PAGE + o for p in pages for o in range(PAGE)], dtype=torch.int64)

def round_trip(kind, layout, backend, pages, dtype):
    torch.manual_seed(pages)
    device = device_pool(kind, dtype)
    for buffer in buffers(kind, device):
        buffer.copy_(torch.randn(buffer.shape))
    host = host_pool(kind, device, layout)
    host.kv_buffer.zero_()
    first, kept, second = (slots(torch.randperm(16)[:pages].tolist()) for _ in range(3))
    before = [buffer.clone() for buffer in buffers(kind, device)]
    host.backup_from_device_all_layer(device, kept, first, backend)
    for buffer in buffers(kind, device):
        buffer.zero_()
    for layer in range(LAYERS):
        host.load_to_device_per_layer(device, kept, second, layer, backend)
    expected = [torch.zeros_like(buffer) for buffer in before]
    for after, saved in zip(expected, before):
        after[second] = saved[first]
    exact = all(map(torch.equal, buffers(kind, device), expected))
    pages_read = [host.get_data_page(int(slot)) for slot in kept[::PAGE]]
    filled = [int((page != 0).sum()) == page.numel() for page in pages_read]
    return exact and all(filled) and not host.pin_memory

for kind, layout, backend, pages, dtype in json.loads(CASES):
    outcome = round_trip(kind, layout, backend, pages, getattr(torch, dtype))
    print(json.dumps([[kind, layout, backend, pages, dtype], outcome]))
"""

ROUND_TRIPS = [
    (kind, layout, backend, pages, dtype)
    for kind in ("mha", "mla")
    for layout, backend in (
        ("layer_first", "direct"),
        ("layer_first", "kernel"),
        ("page_first", "kernel"),
        ("page_first_direct", "direct"),
        ("page_head", "kernel"),
    )
    if (kind, layout) != ("mla", "page_head")
    for pages in (0, 1, 3, 7)
    for dtype in ("float32", "bfloat16")
]


@pytest.fixture(scope="module")
def round_trips():
    """The outcome of every round trip; one process makes them all, for importing is slow."""
    shown = printed(f"CASES = {json.dumps(json.dumps(ROUND_TRIPS))}\n{ROUND_TRIP}")
    lines = [json.loads(line) for line in shown.splitlines() if line.startswith("[[")]
    return {tuple(case): outcome for case, outcome in lines}


@pytest.mark.parametrize("case", ROUND_TRIPS, ids=lambda case: "-".join(map(str, case)))
def test_kv_survives_the_way_through_sglangs_host_pool(round_trips, case):
    assert round_trips[case] is True


def test_the_engine_forks_its_children_and_uses_the_rest_of_multiprocessing_as_it_is():
    code = (
        "from sglang.srt.plugins import load_plugins; load_plugins()\n"
        "import multiprocessing\n"
        "from sglang.srt.entrypoints import engine\n"
        "import inspect\n"
        "calls = inspect.getsource(engine).count('mp.Process(')\n"
        "print(engine.mp.Process._start_method, engine.mp.Pipe is multiprocessing.Pipe, calls > 2)"
    )
    assert printed(code) == "fork True True"


TOKENIZER_CALL = (
    "get_tokenizer(get_serving().tokenizer_path, tokenizer_mode=get_serving().tokenizer_mode, "
    "trust_remote_code=get_model().trust_remote_code, revision=get_model().revision, "
    "tokenizer_backend=get_serving().tokenizer_backend)"
)


@pytest.mark.parametrize("user", USERS, ids=str)
def test_all_of_a_server_ask_for_the_same_tokenizer(user):
    source = (SGLANG / Path(*user.module.split(".")[1:]).with_suffix(".py")).read_text()
    calls = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "get_tokenizer"
    ]
    assert calls == [TOKENIZER_CALL]


LOAD_ONCE = f"""
import sys
from types import SimpleNamespace
from sglang.srt.plugins import load_plugins
load_plugins()
from pdcache.models import resolve_model
from pdcache.sglang_cpu import tokenizers
serving = SimpleNamespace(skip_tokenizer_init=False, tokenizer_mode="auto",
                          tokenizer_path=resolve_model("smollm2-135m"),
                          tokenizer_backend="huggingface")
model = SimpleNamespace(trust_remote_code=False, revision=None)
context = tokenizers.CONTEXT.load_module()
context.get_serving, context.get_model = lambda: serving, lambda: model
get_serving, get_model = context.get_serving, context.get_model
tokenizers.load_before_fork()
(get_tokenizer,) = {{user.get() for user in tokenizers.USERS}}
tokenizer = {TOKENIZER_CALL}
print(get_tokenizer.cache_info().hits, get_tokenizer.cache_info().misses, len(tokenizer))
serving.tokenizer_path = "/nowhere"
tokenizers.load_before_fork()
"""


def test_a_tokenizer_is_loaded_once_for_a_server_and_its_children():
    """What cannot be loaded is left to those that need it."""
    assert printed(LOAD_ONCE) == "1 1 49152"


def test_a_fork_that_collects_garbage_does_not_copy_what_was_imported():
    code = """
from sglang.srt.plugins import load_plugins
load_plugins()
import gc
from sglang.srt.entrypoints import engine
def own_memory():
    lines = dict(line.split(':') for line in list(open('/proc/self/smaps_rollup'))[1:])
    return int(lines['Private_Dirty'].split()[0])
def collect(pipe):
    before = own_memory()
    gc.collect()
    pipe.send(own_memory() - before)
here, there = engine.mp.Pipe()
imported = own_memory()
child = engine.mp.Process(target=collect, args=(there,))
child.start()
print(here.recv() < imported / 10)
child.join()
"""
    assert printed(code) == "True"


def test_a_scheduler_that_waits_pauses_and_an_idle_one_does_not():
    code = """
import inspect, zmq
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.idle_sleeper import IdleSleeper
from sglang.srt.disaggregation.common.conn import CommonKVManager
requests = zmq.Context().socket(zmq.PULL)
class Waits(Scheduler):
    disagg_decode_transfer_queue = None
    def __init__(self, idle):
        self.idle, self.forward_ct, self.idle_sleeper = idle, 7, IdleSleeper([requests])
Scheduler.on_idle = lambda self: looks.append(self.idle)
Scheduler.is_fully_idle = lambda self: self.idle
from sglang.srt.plugins import load_plugins
load_plugins()
from pdcache.sglang_cpu import waiting
looks, pauses = [], []
class Bell:
    ring = lambda self: pauses.append("rung")
    pause = lambda self, seconds, sockets: pauses.append((seconds, sockets == [requests]))
waiting.Bell = Bell
for idle in (True, False):
    Waits(idle).on_idle()
manager = type("", (), {"request_status": {}})()
CommonKVManager.update_status(manager, 1, 4)
print(looks, pauses, "self.forward_ct += 1" in inspect.getsource(Scheduler.run_batch))
"""
    assert printed(code) == "[True, False] [(0.001, True), 'rung'] True"


def test_the_queues_that_a_waiting_decode_is_judged_by_are_there():
    code = """
import inspect
from sglang.srt.disaggregation.decode import DecodePreallocQueue, DecodeTransferQueue
from sglang.srt.disaggregation.decode_kvcache_offload_manager import DecodeKVCacheOffloadManager
from sglang.srt.managers.scheduler import Scheduler
made = {
    DecodeTransferQueue: ["queue"],
    DecodePreallocQueue: ["queue", "retracted_queue"],
    DecodeKVCacheOffloadManager: ["ongoing_offload"],
}
for of, names in made.items():
    text = inspect.getsource(of.__init__)
    print(*(f"self.{name}" in text for name in names))
text = inspect.getsource(Scheduler)
print(*(f"self.{name} = " in text for name in (
    "disagg_decode_transfer_queue", "disagg_decode_prealloc_queue", "decode_offload_manager",
    "idle_sleeper")))
"""
    assert set(printed(code).split()) == {"True"}


def test_the_code_of_other_models_is_imported_for_them_only():
    code = """
import sys
from sglang.srt.models.registry import ModelRegistry
def loaded(arch):
    model, found = ModelRegistry.resolve_model_cls([arch])
    return found, model.__name__, "sglang.srt.models.qwen2" in sys.modules
print(*loaded("LlamaForCausalLM"), *loaded("Qwen2ForCausalLM"))
"""
    llama, qwen = (
        "LlamaForCausalLM LlamaForCausalLM False",
        "Qwen2ForCausalLM Qwen2ForCausalLM True",
    )
    assert printed(code).splitlines()[-1] == f"{llama} {qwen}"
