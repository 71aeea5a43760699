// A user's phone agent in Node, built from Twilio's library and plain WebSockets: events passed on by hand.
'use strict';

const Fastify = require('fastify');
const twilio = require('twilio');
const WebSocket = require('ws');

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
    const url = `https://${request.headers.host}/voice`;
    const signature = request.headers['x-twilio-signature'];
    if (!twilio.validateRequest(process.env.AUTH_TOKEN, signature, url, request.body)) return reply.code(403).send('');
    const answer = new twilio.twiml.VoiceResponse();
    answer.say('One moment, please.');
    answer.connect().stream({ url: `wss://${request.headers.host}/media` });
    return reply.type('text/xml').send(answer.toString());
  });

  app.get('/media', { websocket: true }, (phone) => {
    let streamSid = '';
    let played = 0;
    const model = new WebSocket(`${process.env.MODEL_URL}?model=gpt-realtime-2.1`, {
      headers: { Authorization: 'Bearer sk-test' },
    });
    const toModel = (event) => model.readyState === WebSocket.OPEN && model.send(JSON.stringify(event));
    const toPhone = (event) => phone.send(JSON.stringify({ ...event, streamSid }));

    model.on('open', () => toModel({ type: 'session.update', session }));
    model.on('message', (data) => {
      const event = JSON.parse(data);
      if (event.type === 'response.output_audio.delta') {
        toPhone({ event: 'media', media: { payload: event.delta } });
        toPhone({ event: 'mark', mark: { name: `part ${(played += 1)}` } });
      } else if (event.type === 'input_audio_buffer.speech_started') {
        toPhone({ event: 'clear' });
      } else if (event.type === 'response.done') {
        const calls = event.response.output.filter((item) => item.type === 'function_call');
        for (const { call_id } of calls) {
          toModel({ type: 'conversation.item.create', item: { type: 'function_call_output', call_id, output: 'Number 41.' } });
        }
        if (calls.length) toModel({ type: 'response.create' });
      } else if (event.type === 'error') {
        console.log('error of the model:', event.error);
      }
    });
    model.on('error', (error) => console.log('model:', error.message));
    phone.on('message', (data) => {
      const message = JSON.parse(data);
      if (message.event === 'start') streamSid = message.start.streamSid;
      if (message.event === 'media') toModel({ type: 'input_audio_buffer.append', audio: message.media.payload });
    });
    phone.on('close', () => model.close());
  });

  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log(`ready ${app.server.address().port}`);
}

main();
