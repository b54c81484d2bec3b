// Embeds texts with grpc-js: one call, a stream, and an error that is handled.
//
//     node client.js [ADDRESS [INSTANCE]]

import { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../src/tei_manager/grpc/proto", import.meta.url));
const DEADLINE = 10_000; // milliseconds
const TEXT = "Hello world";
const TEXTS = ["The first text", "the second", "and a third one"];
const OPTIONS = {
  "grpc.keepalive_time_ms": 30_000, // a ping after 30 s without traffic
  "grpc.keepalive_timeout_ms": 10_000, // dead if there is no answer for 10 s
  "grpc.keepalive_permit_without_calls": 1, // also while no call is under way
  "grpc.max_receive_message_length": 64 << 20, // EmbedAll answers pass grpc-js's 4 MiB
};

const [address = "localhost:9001", instance = "minilm"] = process.argv.slice(2);

/** Makes a client from the .proto files as they are: nothing is generated. */
function connect() {
  const files = loadSync("multiplexer/v1/tei_multiplexer.proto", {
    includeDirs: [PROTOS],
    defaults: true,
  });
  const { TeiMultiplexer } = grpc.loadPackageDefinition(files).tei_multiplexer.v1;
  return new TeiMultiplexer(address, grpc.credentials.createInsecure(), OPTIONS);
}

/** Asks an instance for the vector of a text. */
function request(text, instanceName) {
  return { target: { instanceName }, request: { inputs: text } };
}

/** A call's deadline, which travels to the instance. */
function deadline() {
  return { deadline: Date.now() + DEADLINE };
}

/** Prints how long the vector of a text is, and how it begins. */
function show(text, { embeddings }) {
  console.log(`${text} -> ${embeddings.length} numbers, the first ${embeddings[0].toFixed(4)}`);
}

/** Embeds one text by one call. */
async function embed(client, instanceName) {
  const call = promisify(client.embed).bind(client);
  show(TEXT, await call(request(TEXT, instanceName), deadline()));
}

/** Embeds several texts by one call; the answers come in the order of the texts. */
async function embedStream(client) {
  const stream = client.embedStream(deadline());
  Readable.from(TEXTS.map((text) => request(text, instance))).pipe(stream);
  const texts = TEXTS.values();
  for await (const answer of stream) {
    show(texts.next().value, answer);
  }
}

/** Calls an instance that there is not: the code says what to do, the details what is wrong. */
async function embedNowhere(client) {
  try {
    await embed(client, "no-such-instance");
  } catch (error) {
    if (error.code !== grpc.status.NOT_FOUND) throw error;
    console.log(`NOT_FOUND: ${error.details}`);
  }
}

const client = connect();
try {
  await embed(client, instance);
  await embedStream(client);
  await embedNowhere(client);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.close();
}
