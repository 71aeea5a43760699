// A user's phone agent on the OpenAI Agents SDK for JavaScript, with its transport for Twilio.
'use strict';

const Fastify = require('fastify');
const { RealtimeAgent, RealtimeSession, tool } = require('@openai/agents/realtime');
const { TwilioRealtimeTransportLayer } = require('@openai/agents-extensions');
const { setTracingDisabled } = require('@openai/agents');

setTracingDisabled(true);

const bookTable = tool({
  name: 'book_table',
  description: 'Book a table.',
  parameters: {
    type: 'object',
    properties: { guests: { type: 'integer' }, time: { type: 'string' } },
    required: ['guests', 'time'],
    additionalProperties: false,
  },
  strict: true,
  execute: async () => 'Number 41.',
});

async function main() {
  const app = Fastify();
  await app.register(require('@fastify/formbody'));
  await app.register(require('@fastify/websocket'));

  app.post('/voice', async (request, reply) => {
    const url = `${process.env.PUBLIC_URL.replace('https', 'wss')}/media`;
    return reply.type('text/xml').send(`<Response><Connect><Stream url="${url}"/></Connect></Response>`);
  });

  app.get('/media', { websocket: true }, async (phone) => {
    const agent = new RealtimeAgent({ name: 'Front desk', instructions: 'You take table bookings.', tools: [bookTable] });
    const session = new RealtimeSession(agent, {
      transport: new TwilioRealtimeTransportLayer({ twilioWebSocket: phone }),
      model: 'gpt-realtime-2.1',
      tracingDisabled: true,
      config: { audio: { input: { format: 'g711_ulaw' }, output: { format: 'g711_ulaw' } } },
    });
    session.on('error', (error) => console.log('error of the session:', error));
    await session.connect({ apiKey: 'sk-test', url: `${process.env.MODEL_URL}?model=gpt-realtime-2.1` });
    session.sendMessage('Greet the caller.');
  });

  await app.listen({ port: 0, host: '127.0.0.1' });
  console.log(`ready ${app.server.address().port}`);
}

main();
