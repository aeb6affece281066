"""The double's implementation: one function per class and member; members without one cannot be called."""

import ctypes
import json
import math
import os
import time
from pathlib import Path

from cuda.bindings import runtime as cuda

import tensorrt as trt

NUMPY = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}
OF_ORT = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8"}


def fails(how):
    """Whether the test makes this fail."""
    return os.environ.get("TENSORRT_DOUBLE_FAILS") == how


def note(name, given):
    """Log a call, for tests to read."""
    if os.environ.get("TENSORRT_DOUBLE_LOG"):
        with Path(os.environ["TENSORRT_DOUBLE_LOG"]).open("a", encoding="utf-8") as file:
            shown = {key: str(value) if len(str(value)) < 200 else "..." for key, value in given.items()}
            file.write(json.dumps([name, shown]) + "\n")


def begin(self, **given):
    """Every constructor: keep its arguments."""
    self.__dict__.update({f"_{key}": value for key, value in given.items()})
    if isinstance(self, (trt.Builder, trt.Runtime)) and fails("crash"):
        ctypes.string_at(0)


def made(cls, **state):
    thing = cls.__new__(cls)
    thing.__dict__.update({f"_{key}": value for key, value in state.items()})
    return thing


def complain(logger, text):
    logger.log(trt.ILogger.Severity.ERROR, text)


def load(content):
    import onnxruntime  # not at the top, so that the search for a GPU stays fast

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def shape_of(value):
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)


# Building


def Builder_create_network(self, flags=0):
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert int(flags) & strongly_typed, "distillkit builds only strongly typed networks"
    return made(trt.INetworkDefinition, logger=self._logger)


def Builder_create_builder_config(self):
    return made(trt.IBuilderConfig, flags={trt.BuilderFlag.TF32}, cache=b"", profiles=[])


def Builder_create_optimization_profile(self):
    return made(trt.IOptimizationProfile, shapes={})


def Builder_build_serialized_network(self, network, config):
    if fails("hang"):
        time.sleep(60)
    if fails("build"):
        complain(self._logger, "Could not find any implementation\nfor node Gemm_0.")
        return None
    monitor = config.progress_monitor
    for phase, parent in (("Building Engine", None), ("Tactic Selection", "Building Engine")):
        monitor.phase_start(phase, parent, 3)
    for step in range(3):
        if not monitor.step_complete("Tactic Selection", step):
            return None
    for phase in ("Tactic Selection", "Building Engine"):
        monitor.phase_finish(phase)
    (profile,) = config._profiles
    head = {"version": trt.__version__, "profile": profile._shapes, "verbosity": config.profiling_verbosity.name}
    return trt.IHostMemory(b"PLAN" + json.dumps(head).encode() + b"\0" + network._onnx)


def OnnxParser_parse(self, model, path=None):
    if fails("parse"):
        self.__dict__["_errors"] = ["In node 3 (Sin7):\nUNSUPPORTED_NODE: no importer for operator Sin7"]
        return False
    self._network.__dict__["_onnx"] = bytes(model)
    self._network.__dict__["_session"] = load(bytes(model))
    return True


def OnnxParser_num_errors(self):
    return len(self._errors)


def OnnxParser_get_error(self, index):
    return made(trt.ParserError, text=self._errors[index])


def ParserError_desc(self):
    return self._text


def INetworkDefinition_num_inputs(self):
    return len(self._session.get_inputs())


def INetworkDefinition_get_input(self, index):
    value = self._session.get_inputs()[index]
    return made(trt.ITensor, name=value.name, shape=shape_of(value))


def INetworkDefinition_num_layers(self):
    return 1


def INetworkDefinition_get_layer(self, index):
    return made(trt.ILayer, kind=OF_ORT[self._session.get_outputs()[0].type])


def ILayer_num_outputs(self):
    return 1


def ILayer_get_output(self, index):
    return made(trt.ITensor, dtype=trt.DataType[os.environ.get("TENSORRT_DOUBLE_TYPE", self._kind)])


def ITensor_name(self):
    return self._name


def ITensor_shape(self):
    return self._shape


def ITensor_dtype(self):
    return self._dtype


def IOptimizationProfile_set_shape(self, input, min, opt, max):
    self._shapes[input] = [list(min), list(opt), list(max)]


def IBuilderConfig_set_memory_pool_limit(self, pool, pool_size):
    assert pool is trt.MemoryPoolType.WORKSPACE


def IBuilderConfig_set_flag(self, flag):
    self._flags.add(flag)


def IBuilderConfig_clear_flag(self, flag):
    self._flags.discard(flag)


def IBuilderConfig_add_optimization_profile(self, profile):
    self._profiles.append(profile)
    return len(self._profiles) - 1


def IBuilderConfig_create_timing_cache(self, serialized_timing_cache):
    content = bytes(serialized_timing_cache)
    return made(trt.ITimingCache, content=content) if not content or content.startswith(b"cache of ") else None


def IBuilderConfig_set_timing_cache(self, cache, ignore_mismatch):
    mine = f"cache of {trt.__version__}".encode()
    if cache._content and not cache._content.startswith(mine) and not ignore_mismatch:
        return False
    self.__dict__["_cache"] = cache._content or mine
    return True


def IBuilderConfig_get_timing_cache(self):
    return made(trt.ITimingCache, content=self._cache + b" and one build more")


def ITimingCache_serialize(self):
    return trt.IHostMemory(self._content)


# Running


def Runtime_deserialize_cuda_engine(self, serialized_engine):
    if fails("load"):
        complain(self._logger, "the lean runtime is missing")
        return None
    head, _, onnx = bytes(serialized_engine).partition(b"\0")
    if not head.startswith(b"PLAN"):
        complain(self._logger, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
        return None
    facts = json.loads(head[4:])
    if facts["version"] != trt.__version__:
        complain(self._logger, "The engine plan file is not compatible with this version of TensorRT.")
        return None
    return made(trt.ICudaEngine, facts=facts, session=load(onnx), logger=self._logger)


def values(engine):
    return (*engine._session.get_inputs(), *engine._session.get_outputs())


def named(engine, name):
    return next(value for value in values(engine) if value.name == name)


def ICudaEngine_num_io_tensors(self):
    return len(values(self))


def ICudaEngine_get_tensor_name(self, index):
    return values(self)[int(index)].name


def ICudaEngine_get_tensor_mode(self, name):
    inputs = {value.name for value in self._session.get_inputs()}
    return trt.TensorIOMode.INPUT if name in inputs else trt.TensorIOMode.OUTPUT


def ICudaEngine_get_tensor_dtype(self, name):
    return trt.DataType[OF_ORT[named(self, name).type]]


def ICudaEngine_get_tensor_shape(self, name):
    return shape_of(named(self, name))


def ICudaEngine_get_tensor_profile_shape(self, name, profile_index):
    return [tuple(shape) for shape in self._facts["profile"][name]]


def ICudaEngine_device_memory_size_v2(self):
    return 4096


def ICudaEngine_create_engine_inspector(self):
    return made(trt.EngineInspector, facts=self._facts)


def ICudaEngine_create_execution_context(self, strategy=None):
    return made(trt.IExecutionContext, engine=self, addresses={}, shapes={})


def EngineInspector_get_engine_information(self, format):
    assert format is trt.LayerInformationFormat.JSON
    if fails("inspector") or self._facts["verbosity"] != "DETAILED":
        return json.dumps({"Layers": ["Gemm_0"]})
    kind = os.environ.get("TENSORRT_DOUBLE_FORMAT", "Row major linear FP32 format")
    output = {"Name": "logits", "Dimensions": [1, 3], "Format/Datatype": kind}
    return json.dumps({"Layers": [{"Name": "Gemm_0", "Outputs": [output]}]})


def IExecutionContext_set_optimization_profile_async(self, profile_index, stream_handle):
    return int(profile_index) == 0 and int(stream_handle) == 7


def IExecutionContext_set_input_shape(self, name, shape):
    smallest, _, largest = self._engine._facts["profile"][name]
    if not all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
        complain(self._engine._logger, "Static dimension mismatch while setting input shape.")
        return False
    self._shapes[name] = tuple(shape)
    return True


def IExecutionContext_infer_shapes(self):
    return [value.name for value in self._engine._session.get_inputs() if value.name not in self._shapes]


def IExecutionContext_set_tensor_address(self, name, memory):
    self._addresses[name] = int(memory)
    return True


def IExecutionContext_execute_async_v3(self, stream_handle):
    if fails("run"):
        complain(self._engine._logger, "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
        return False
    engine, shapes, addresses = self._engine, dict(self._shapes), dict(self._addresses)

    def work():
        (source,), (target,) = engine._session.get_inputs(), engine._session.get_outputs()
        images = array(addresses[source.name], shapes[source.name], NUMPY[OF_ORT[source.type]])
        (scores,) = engine._session.run(None, {source.name: images})
        array(addresses[target.name], scores.shape, scores.dtype)[...] = scores

    if cuda.captured is None:
        work()
    else:
        cuda.captured.append(work)
    return True


def array(address, shape, dtype):
    """Memory of the device as an array; it must have been allocated there, and be large enough."""
    import numpy as np

    kind, memory = cuda.living[address]
    assert kind == "device"
    size = math.prod(shape) * np.dtype(dtype).itemsize
    assert size <= len(memory)
    return np.frombuffer(memory, dtype, count=math.prod(shape)).reshape(shape)
