// grpc-js (on Node's nghttp2) on both sides: `serve`, or `call PORT`. It cannot compress an answer.
// What the service does is told in mirror.py, and what the cases are in cases.py.
"use strict";

const crypto = require("crypto");
const grpc = require("@grpc/grpc-js");

const SERVICE = "interop.v1.Mirror";
const SIZES = [31415, 9, 2653, 58979];
const LARGE = Buffer.from(Array.from({ length: 256 * 1062 }, (_, n) => n % 256));
const BINARY = [Buffer.from(Array.from({ length: 256 }, (_, n) => n)), Buffer.alloc(0), Buffer.from([0, 44, 255])];
const SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
const ENDED_MS = 20000;
const DEADLINE_MS = 300;

const same = (octets) => octets;
const path = (method) => `/${SERVICE}/${method}`;
const hash = (octets) => crypto.createHash("sha256").update(octets).digest("hex");

// ---- the service

const ends = new Map(); // by x-call: [promise, its resolve]

function ending(call) {
  if (!ends.has(call)) {
    let resolve;
    const promise = new Promise((done) => (resolve = done));
    ends.set(call, [promise, resolve]);
  }
  return ends.get(call);
}

function begin(call) {
  const asked = call.metadata;
  const initial = new grpc.Metadata();
  for (const value of asked.get("x-echo")) initial.add("x-echo", value);
  call.sendMetadata(initial);
  const trailing = new grpc.Metadata();
  for (const value of asked.get("x-echo-bin")) trailing.add("x-echo-bin", value);
  const code = Number(asked.get("x-status")[0] || 0);
  const details = (asked.get("x-message-bin")[0] || Buffer.alloc(0)).toString();
  return { code, details, trailing };
}

function answer(asked, message, callback) {
  if (asked.code) callback({ code: asked.code, details: asked.details, metadata: asked.trailing });
  else callback(null, message, asked.trailing);
}

function finish(call, asked) {
  if (asked.code) call.emit("error", { code: asked.code, details: asked.details, metadata: asked.trailing });
  else call.end(asked.trailing);
}

const HANDLERS = {
  Unary: (call, callback) => answer(begin(call), Buffer.from(call.request).reverse(), callback),
  Collect: (call, callback) => {
    const asked = begin(call);
    const messages = [];
    call.on("data", (message) => messages.push(message));
    call.on("end", () => {
      const whole = Buffer.concat(messages);
      answer(asked, Buffer.from(`${messages.length} ${whole.length} ${hash(whole)}`), callback);
    });
  },
  Scatter: (call) => {
    const asked = begin(call);
    for (const size of call.request.toString().split(" ")) call.write(Buffer.alloc(Number(size), "s"));
    finish(call, asked);
  },
  Mirror: (call) => {
    const asked = begin(call);
    const name = String(call.metadata.get("x-call")[0] || "");
    const greeting = call.metadata.get("x-greet")[0];
    if (greeting) call.write(Buffer.from(greeting));
    call.on("cancelled", () => ending(name)[1]());
    call.on("data", (message) => call.write(message));
    call.on("end", () => {
      ending(name)[1]();
      finish(call, asked);
    });
  },
  Ended: (call, callback) => {
    const timer = setTimeout(() => callback(null, Buffer.from("goes on")), ENDED_MS);
    ending(call.request.toString())[0].then(() => {
      clearTimeout(timer);
      callback(null, Buffer.from("ended"));
    });
  },
};

function serve() {
  const definition = {};
  for (const name of Object.keys(HANDLERS)) {
    definition[name] = {
      path: path(name),
      requestStream: name === "Collect" || name === "Mirror",
      responseStream: name === "Scatter" || name === "Mirror",
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    };
  }
  const server = new grpc.Server();
  server.addService(definition, HANDLERS);
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(port);
  });
}

// ---- the client

function metadata(pairs) {
  const all = new grpc.Metadata();
  for (const [name, value] of pairs) all.add(name, value);
  return all;
}

// Resolves to how a call ended; `answers` is filled by whoever reads them.
function watch(call, answers) {
  let initial = new grpc.Metadata();
  call.on("metadata", (received) => (initial = received));
  call.on("error", () => {}); // the status says the same
  return new Promise((resolve) =>
    call.on("status", (status) =>
      setImmediate(() =>
        resolve({
          code: status.code,
          message: status.details,
          answers: answers.map((message) => [message.length, hash(message).slice(0, 12)]),
          initial: initial.get("x-echo"),
          trailing: status.metadata.get("x-echo-bin").map((value) => value.toString("hex")),
        })
      )
    )
  );
}

function ask(client, message, pairs = [], to = path("Unary"), answers = []) {
  const call = client.makeUnaryRequest(to, same, same, message, metadata(pairs), {}, (error, received) => {
    if (!error) answers.push(received);
  });
  return watch(call, answers);
}

// A duplex call whose answers can be awaited one by one.
function open(client, method, pairs = [], options = {}) {
  const call = client.makeBidiStreamRequest(path(method), same, same, metadata(pairs), options);
  const answers = [];
  const waiting = [];
  let taken = 0;
  call.on("data", (message) => {
    answers.push(message);
    if (waiting.length) waiting.shift()();
  });
  const read = async () => {
    while (answers.length <= taken) await new Promise((resolve) => waiting.push(resolve));
    return answers[taken++];
  };
  return { call, read, seen: watch(call, answers) };
}

async function stream(client, method, messages, pairs = []) {
  const { call, seen } = open(client, method, pairs);
  for (const message of messages) call.write(message);
  call.end();
  return seen;
}

async function pingPong(client) {
  const { call, read, seen } = open(client, "Mirror");
  for (const size of SIZES) {
    call.write(Buffer.alloc(size, "p"));
    await read();
  }
  call.end();
  return seen;
}

async function serverFirst(client) {
  const { call, read, seen } = open(client, "Mirror", [["x-greet", "welcome"]]);
  await read();
  call.end();
  return seen;
}

async function unimplemented(client) {
  const service = await ask(client, Buffer.alloc(0), [], "/interop.v1.Nothing/Unary");
  return { method: await ask(client, Buffer.alloc(0), [], path("Nothing")), service };
}

async function cancel(client) {
  const name = crypto.randomUUID();
  const { call, read, seen } = open(client, "Mirror", [["x-call", name]]);
  call.write(Buffer.from("first"));
  const first = await read();
  call.cancel();
  const { code } = await seen;
  const answers = [];
  await ask(client, Buffer.from(name), [], path("Ended"), answers);
  return { first: first.toString(), code, server: String(answers[0]) };
}

const ECHO = ["one", "two, with a comma", "one"].map((value) => ["x-echo", value]);
const ECHO_BIN = BINARY.map((value) => ["x-echo-bin", value]);
const status = (code, message) => [["x-status", String(code)], ["x-message-bin", Buffer.from(message)]];
const ONE = Buffer.from("x");

const CASES = {
  empty_unary: (c) => ask(c, Buffer.alloc(0)),
  large_unary: (c) => ask(c, LARGE),
  compressed: (_, gzip) => ask(gzip, LARGE, [["x-compress", "1"]]),
  client_streaming: (c) => stream(c, "Collect", SIZES.map((size) => Buffer.alloc(size, "c"))),
  server_streaming: (c) => stream(c, "Scatter", [Buffer.from(SIZES.join(" "))]),
  ping_pong: pingPong,
  empty_stream: (c) => stream(c, "Mirror", []),
  server_first: serverFirst,
  metadata: (c) => ask(c, ONE, [...ECHO, ...ECHO_BIN]),
  large_metadata: (c) => ask(c, ONE, [["x-echo", "v".repeat(7000)]]),
  status: (c) => ask(c, ONE, status(9, "test status message")),
  special_message: (c) => ask(c, ONE, status(9, SPECIAL)),
  status_behind_answers: (c) =>
    stream(c, "Scatter", [Buffer.from("3 1")], [...status(10, "behind answers"), ...ECHO_BIN]),
  unimplemented,
  deadline: async (c) => {
    const { seen } = open(c, "Mirror", [], { deadline: Date.now() + DEADLINE_MS });
    return { code: (await seen).code };
  },
  cancel,
};

async function play(port) {
  const credentials = grpc.credentials.createInsecure();
  const client = new grpc.Client(`127.0.0.1:${port}`, credentials);
  const gzip = new grpc.Client(`127.0.0.1:${port}`, credentials, { "grpc.default_compression_algorithm": 2 });
  for (const [name, run] of Object.entries(CASES)) {
    const seen = await run(client, gzip).catch((error) => ({ error: String(error) }));
    console.log(JSON.stringify({ [name]: seen }));
  }
  client.close();
  gzip.close();
}

if (process.argv[2] === "call") play(process.argv[3]);
else serve();
