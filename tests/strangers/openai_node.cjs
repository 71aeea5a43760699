// A user's phone agent on the official openai package for Node, whose Realtime client insists on wss://.
'use strict';

const Fastify = require('fastify');
const { OpenAI } = require('openai');
const { OpenAIRealtimeWS } = require('openai/realtime/ws');

const ulaw = { type: 'audio/pcmu' };
const session = {
  type: 'realtime',
  instructions: 'You take table bookings.',
  audio: {
    input: { format: ulaw, turn_detection: { type: 'server_vad' }, transcription: { model: 'gpt-4o-mini-transcribe' } },
    output: { format: ulaw, voice: 'alloy' },
  },
  tools: [{
    type: 'function',
    name: 'book_table',
    parameters: { type: 'object', properties: { guests: { type: 'integer' }, time: { type: 'string' } } },
  }],
};

async function main() {
  const app = Fastify();
  await app.register(require('@fastify/formbody'));
  await app.register(require('@fastify/websocket'));

  app.post('/voice', async (request, reply) => {
    const url = `${process.env.PUBLIC_URL.replace('https', 'wss')}/media`;
    return reply.type('text/xml').send(`<Response><Connect><Stream url="${url}"/></Connect></Response>`);
  });

  app.get('/media', { websocket: true }, (phone) => {
    let streamSid = '';
    const baseURL = process.env.MODEL_URL.replace('ws', 'http').replace(/\/realtime$/, '');
    const client = new OpenAI({ apiKey: 'sk-test', baseURL });
    const model = new OpenAIRealtimeWS({ model: 'gpt-realtime-2.1' }, client);
    const toPhone = (event) => phone.send(JSON.stringify({ ...event, streamSid }));

    model.on('session.created', () => model.send({ type: 'session.update', session }));
    model.on('session.updated', () => model.send({ type: 'response.create', response: { instructions: 'Greet the caller.' } }));
    model.on('response.output_audio.delta', ({ delta }) => toPhone({ event: 'media', media: { payload: delta } }));
    model.on('input_audio_buffer.speech_started', () => toPhone({ event: 'clear' }));
    model.on('response.done', ({ response }) => {
      const calls = response.output.filter((item) => item.type === 'function_call');
      for (const { call_id } of calls) {
        const item = { type: 'function_call_output', call_id, output: 'Number 41.' };
        model.send({ type: 'conversation.item.create', item });
      }
      if (calls.length) model.send({ type: 'response.create' });
    });
    model.on('error', (error) => console.log('error of the model:', error));
    phone.on('message', (data) => {
      const message = JSON.parse(data);
      if (message.event === 'start') streamSid = message.start.streamSid;
      if (message.event === 'media' && model.socket.readyState === 1) {
        model.send({ type: 'input_audio_buffer.append', audio: message.media.payload });
      }
    });
    phone.on('close', () => model.close());
  });

  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log(`ready ${app.server.address().port}`);
}

main();
