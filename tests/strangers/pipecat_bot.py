"""A user's Pipecat bot: Twilio's serializer, a pipeline around OpenAI Realtime, a hang-up by the REST API."""

import asyncio
import os
import socket

import uvicorn
from fastapi import FastAPI, Response, WebSocket
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import EndTaskFrame, LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport

TOOLS = ToolsSchema(
    standard_tools=[
        FunctionSchema(
            name="book_table",
            description="Book a table.",
            properties={"guests": {"type": "integer"}, "time": {"type": "string"}},
            required=["guests", "time"],
        ),
        FunctionSchema(name="end_call", description="Hang up.", properties={}, required=[]),
    ]
)
app = FastAPI()


@app.post("/voice")
async def voice() -> Response:
    address = os.environ["PUBLIC_URL"].replace("https", "wss") + "/media"
    twiml = f'<Response><Connect><Stream url="{address}"/></Connect><Pause length="20"/></Response>'
    return Response(twiml, media_type="application/xml")


async def book_table(params) -> None:
    await params.result_callback({"number": 41})


async def end_call(params) -> None:
    await params.llm.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)


@app.websocket("/media")
async def media(websocket: WebSocket) -> None:
    await websocket.accept()
    _, call = await parse_telephony_websocket(websocket)
    serializer = TwilioFrameSerializer(
        stream_sid=call["stream_id"],
        call_sid=call["call_id"],
        account_sid=os.environ["ACCOUNT_SID"],
        auth_token=os.environ["AUTH_TOKEN"],
        base_url=os.environ["REST_URL"],
    )
    transport = FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer),
    )
    llm = OpenAIRealtimeLLMService(
        api_key="sk-test",
        base_url=os.environ["MODEL_URL"],
        settings=OpenAIRealtimeLLMService.Settings(
            session_properties=events.SessionProperties(
                instructions="You take table bookings.",
                audio=events.AudioConfiguration(
                    input=events.AudioInput(
                        transcription=events.InputAudioTranscription(), turn_detection=events.TurnDetection()
                    )
                ),
            )
        ),
    )
    llm.register_function("book_table", book_table)
    llm.register_function("end_call", end_call)
    context = LLMContext([{"role": "user", "content": "Greet the caller."}], tools=TOOLS)
    aggregators = LLMContextAggregatorPair(context)
    pipeline = Pipeline([transport.input(), aggregators.user(), llm, transport.output(), aggregators.assistant()])
    task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000))

    @transport.event_handler("on_client_connected")
    async def connected(transport, client) -> None:
        await task.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def disconnected(transport, client) -> None:
        await task.cancel()

    await PipelineRunner(handle_sigint=False).run(task)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print("ready", listener.getsockname()[1], flush=True)
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
