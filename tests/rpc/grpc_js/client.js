// Runs every check against the server at argv[2] and prints one JSON object: check -> what it saw.
// NODE_PATH tells where the packages are.
'use strict';
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const target = process.argv[2];
const options = { 'grpc.max_receive_message_length': -1, 'grpc.enable_http_proxy': 0 };
const client = new grpc.Client(target, grpc.credentials.createInsecure(), options);
const same = (bytes) => bytes;
const soon = () => ({ deadline: Date.now() + 30000 });

function unary(method, request, metadata, extra) {
  return new Promise((resolve) => {
    const seen = {};
    const call = client.makeUnaryRequest(
      '/t.T/' + method, same, same, request, metadata || new grpc.Metadata(), extra || soon(),
      (error, reply) => {
        seen.code = error ? error.code : 0;
        seen.details = error ? error.details : '';
        seen.reply = reply;
        // The status may come after the answer.
        setImmediate(() => resolve(seen));
      },
    );
    call.on('metadata', (initial) => { seen.initial = initial.toJSON(); });
    call.on('status', (status) => { seen.trailers = status.metadata.toJSON(); });
    seen.call = call;
  });
}

function collect(call) {
  return new Promise((resolve) => {
    const messages = [];
    call.on('data', (message) => messages.push(message));
    call.on('error', (error) => resolve({ messages, code: error.code, details: error.details }));
    call.on('status', (status) => { if (status.code === 0) resolve({ messages, code: 0 }); });
  });
}

const checks = {
  async echo() {
    const sizes = [];
    for (const method of ['Echo', 'Deferred', 'Async']) {
      for (const size of [0, 1, 100000, 3 << 20]) {
        const seen = await unary(method, Buffer.alloc(size, 7));
        sizes.push(seen.code === 0 && seen.reply.equals(Buffer.alloc(size, 7)));
      }
    }
    return sizes;
  },
  async many() {
    const calls = [];
    for (let number = 0; number < 300; number += 1) calls.push(unary('Deferred', Buffer.from([number & 255])));
    const seen = await Promise.all(calls);
    return seen.every((one, number) => one.code === 0 && one.reply[0] === (number & 255));
  },
  async errors() {
    const found = [];
    for (let code = 1; code <= 16; code += 1) {
      const seen = await unary('Fail', Buffer.from(code + ' naïve € 100%'));
      found.push([seen.code, seen.details, seen.trailers['x-why']]);
    }
    return found;
  },
  async metadata() {
    const metadata = new grpc.Metadata();
    metadata.add('x-text', 'a b');
    metadata.add('x-raw-bin', Buffer.from([0, 255]));
    const seen = await unary('Metadata', Buffer.alloc(0), metadata);
    return [seen.code, seen.initial, seen.trailers];
  },
  async bidi() {
    const call = client.makeBidiStreamRequest('/t.T/Bidi', same, same, new grpc.Metadata(), soon());
    const done = collect(call);
    for (const size of [0, 5, 100000, 1 << 20]) call.write(Buffer.alloc(size));
    call.end();
    const { messages, code } = await done;
    return [messages.map((message) => message.length), code];
  },
  async serverStream() {
    const call = client.makeServerStreamRequest(
      '/t.T/Count', same, same, Buffer.from('50000 100'), new grpc.Metadata(), soon());
    const { messages, code } = await collect(call);
    return [messages.length, messages.every((message) => message.length === 50000), code];
  },
  async clientStream() {
    return new Promise((resolve) => {
      const call = client.makeClientStreamRequest(
        '/t.T/Collect', same, same, new grpc.Metadata(), soon(),
        (error, reply) => resolve(error ? error.code : reply.toString()));
      for (let number = 0; number < 50; number += 1) call.write(Buffer.alloc(50000));
      call.end();
    });
  },
  async cancel() {
    const call = client.makeServerStreamRequest(
      '/t.T/WaitStream', same, same, Buffer.alloc(0), new grpc.Metadata(), soon());
    const done = collect(call);
    call.once('data', () => call.cancel());
    const { code } = await done;
    return [code, (await unary('AwaitCancelled', Buffer.alloc(0))).code];
  },
  async deadline() {
    const seen = await unary('Wait', Buffer.alloc(0), null, { deadline: Date.now() + 200 });
    return seen.code;
  },
  async tooLarge() {
    const seen = await unary('Echo', Buffer.alloc(5 << 20));
    return [seen.code, seen.details];
  },
  async unknown() {
    const seen = await unary('None', Buffer.alloc(0));
    return [seen.code, seen.details];
  },
  async protoLoader() {
    const definition = loader.loadSync(path.join(__dirname, 'echo.proto'));
    const { T } = grpc.loadPackageDefinition(definition).t;
    const typed = new T(target, grpc.credentials.createInsecure(), options);
    const reply = await new Promise((resolve, reject) => {
      typed.echo({ data: Buffer.from('typed') }, (error, blob) => (error ? reject(error) : resolve(blob)));
    });
    typed.close();
    return reply.data.toString();
  },
  async drain() {
    // The call that runs ends well although the server goes away meanwhile.
    const running = unary('Drain', Buffer.from('bye'));
    const seen = await running;
    const late = await unary('Echo', Buffer.alloc(0));
    return [seen.code, seen.reply.toString(), late.code];
  },
};

async function main() {
  const seen = {};
  for (const [name, check] of Object.entries(checks)) {
    seen[name] = await check();
  }
  client.close();
  process.stdout.write(JSON.stringify(seen));
}

main().catch((error) => {
  process.stderr.write(String(error && error.stack) + '\n');
  process.exit(1);
});
