"""An unmodified `InferenceRESTClient` of the `kserve` package against the server."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferOutput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

from checks import Check, Report, expect, expect_equal
from make_models import Made
from oracle import Oracle, Outputs
from triton_client import simple_inputs, sums


def request(model: str, inputs: Outputs, binary: bool, request_id: str | None = None) -> InferRequest:
    """A request as the client wants it; the outputs come back in the dress of the inputs."""
    made = []
    for name, array in inputs.items():
        made.append(InferInput(name, list(array.shape), "FP32"))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=made, request_id=request_id,
                        parameters={"binary_data_output": binary})


def values(response: InferResponse) -> Outputs:
    """The outputs by their names."""
    outputs: list[InferOutput] = response.outputs
    return {output.name: output.as_numpy() for output in outputs}


async def check_health(server: InferenceRESTClient, base: str, models: dict[str, Made]) -> None:
    """Live, ready, and models that are there or are not."""
    expect_equal(await server.is_server_live(base), True, "is_server_live")
    expect_equal(await server.is_server_ready(base), True, "is_server_ready")
    for name in models:
        expect_equal(await server.is_model_ready(base, name), True, f"is_model_ready of {name}")
    expect_equal(await server.is_model_ready(base, "nobody"), False, "is_model_ready of nobody")


async def check_infer(check: Check, server: InferenceRESTClient, base: str, binary: bool) -> None:
    """One request and its answer."""
    inputs = simple_inputs(40, rows=3)
    response = await server.infer(base, request("simple", inputs, binary, "one"), model_name="simple")
    expect_equal((response.model_name, response.id), ("simple", "one"), "the answer's model and id")
    for name, wanted in sums(inputs).items():
        check.close_to(values(response)[name], wanted, name)


async def check_mixed(check: Check, server: InferenceRESTClient, base: str) -> None:
    """One input in binary and one in JSON, and the outputs the other way round."""
    inputs = simple_inputs(41)
    asked = request("simple", inputs, binary=True)
    asked.inputs[1].set_data_from_numpy(inputs["INPUT1"], binary_data=False)
    asked.parameters = {}
    asked.request_outputs = [RequestedOutput(name, {"binary_data": way}) for name, way in [("OUTPUT0", False), ("OUTPUT1", True)]]
    response = await server.infer(base, asked, model_name="simple")
    for name, wanted in sums(inputs).items():
        check.close_to(values(response)[name], wanted, name)


async def check_many(check: Check, server: InferenceRESTClient, base: str, oracle: Oracle) -> None:
    """Many requests at once."""
    random = np.random.default_rng(42)
    inputs = [{"audio": (random.standard_normal((1, 16_000)) * 0.2).astype(np.float32)} for _ in range(24)]
    asked = [server.infer(base, request("conv", one, binary=True), model_name="conv") for one in inputs]
    for one, response in zip(inputs, await asyncio.gather(*asked)):
        check.close_to(values(response)["scores"], oracle.run(one)["scores"], "scores")


async def check_refusals(server: InferenceRESTClient, base: str) -> None:
    """Mistakes become the client's own exception with a status and a reason."""
    short = {"INPUT0": np.zeros((1, 16), np.float32)}
    for model, inputs, word in [("nobody", simple_inputs(43), "nobody"), ("simple", short, "INPUT1")]:
        try:
            await server.infer(base, request(model, inputs, binary=False), model_name=model)
        except httpx.HTTPStatusError as error:
            expect(error.response.status_code in [400, 404], f"status {error.response.status_code}")
            expect(word in str(error), f"the message does not name {word}: {error}")
        else:
            expect(False, f"the mistake with {word} was accepted")


async def run_all(report: Report, address: str, models: dict[str, Made]) -> None:
    """All checks over one client."""
    base = f"http://{address}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=60)) as server:
        with report.check("kserve: is_server_live, is_server_ready, is_model_ready"):
            await check_health(server, base, models)
        for binary in [False, True]:
            with report.check(f"kserve: infer in {'binary' if binary else 'JSON'}") as check:
                await check_infer(check, server, base, binary)
        with report.check("kserve: infer in binary and JSON mixed") as check:
            await check_mixed(check, server, base)
        with report.check("kserve: 24 requests at once") as check:
            await check_many(check, server, base, Oracle(models["conv"]))
        with report.check("kserve: mistakes are refused"):
            await check_refusals(server, base)


def run(report: Report, address: str, models: dict[str, Made]) -> None:
    """All checks of the client."""
    asyncio.run(run_all(report, address, models))
