// The official JavaScript client at the other end of a pipe.
//
// One JSON object a line, in both directions. A request {id, op, connection, ...} is answered by
// {id, result} or {id, error}; what happens by itself is told as {connection, event, ...}, in the
// order in which it happened. What JSON does not have is written as {"$bytes": base64},
// {"$bigint": digits} and {"$date": ISO 8601}; {"$upload": name} is a Subject.

import diagnostics from "node:diagnostics_channel";
import { createInterface } from "node:readline";
import { HubConnectionBuilder, HubConnectionState, HttpTransportType, LogLevel, Subject } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const connections = new Map();
const uploads = new Map();
const subscriptions = new Map();
/** Of connections that are to be cut, by name, which is in the query of their requests: those under
 * way, and the socket of each. */
const sockets = new Map();
/** Where a connection is to reconnect. */
const elsewhere = new Map();

function encode(value) {
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
  if (typeof value === "bigint") return { $bigint: value.toString() };
  if (value instanceof Date) return { $date: value.toISOString() };
  if (Array.isArray(value)) return value.map(encode);
  if (value !== null && typeof value === "object") return mapValues(value, encode);
  return value;
}

function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== "object") return value;
  if ("$bytes" in value) return new Uint8Array(Buffer.from(value.$bytes, "base64"));
  if ("$bigint" in value) return BigInt(value.$bigint);
  if ("$date" in value) return new Date(value.$date);
  if ("$upload" in value) return subject(value.$upload);
  return mapValues(value, decode);
}

function mapValues(object, change) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
}

function write(message) {
  process.stdout.write(JSON.stringify(encode(message)) + "\n");
}

function marked(url, name) {
  return `${url}${url.includes("?") ? "&" : "?"}client=${name}`;
}

function socketsOf({ path }) {
  return sockets.get(/[?&]client=(\w+)/.exec(path)?.[1]) ?? new Map();
}

// WebSockets and server-sent events, which last as long as their socket.
diagnostics.subscribe("http.client.request.start", ({ request }) => {
  socketsOf(request).set(request, request.socket);
  request.socket.once("close", () => socketsOf(request).delete(request));
});
// All else goes by fetch, which uses a socket again and again.
diagnostics.subscribe("undici:client:sendHeaders", ({ request, socket }) => {
  socketsOf(request).set(request, socket);
});
for (const end of ["undici:request:trailers", "undici:request:error"]) {
  diagnostics.subscribe(end, ({ request }) => socketsOf(request).delete(request));
}

function build(name, request) {
  const { url, protocol, transport, token, targets, handlers, reconnect, stateful, cuttable } = request;
  if (cuttable) sockets.set(name, new Map());
  const builder = new HubConnectionBuilder()
    .withUrl(cuttable ? marked(url, name) : url, {
      transport: HttpTransportType[transport ?? "WebSockets"],
      accessTokenFactory: token === undefined ? undefined : () => token,
    })
    .configureLogging(LogLevel.None);
  if (protocol === "messagepack") builder.withHubProtocol(new MessagePackHubProtocol());
  if (reconnect) builder.withAutomaticReconnect(reconnect);
  if (stateful) builder.withStatefulReconnect();
  const connection = builder.build();
  const tell = (event, error) => write({ connection: name, event, error: error?.message ?? null });
  connection.onclose((error) => tell("close", error));
  connection.onreconnecting((error) => {
    tell("reconnecting", error);
    if (elsewhere.has(name)) connection.baseUrl = marked(elsewhere.get(name), name);
  });
  connection.onreconnected((connectionId) => {
    write({ connection: name, event: "reconnected", error: null, connectionId });
  });
  for (const target of targets) {
    connection.on(target, (...args) => write({ connection: name, event: "send", target, args }));
  }
  for (const [target, how] of Object.entries(handlers ?? {})) {
    connection.on(target, (...args) => {
      write({ connection: name, event: "send", target, args });
      if (how === "echo") return args[0];
      if (how === "throw") throw new Error(`no ${args[0]}`);
      if (how === "ask back") return connection.invoke("Echo", args[0]);
      return new Promise((resolve) => connection.on("told", () => resolve(args[0])));
    });
  }
  return connection;
}

function subject(name) {
  if (!uploads.has(name)) uploads.set(name, new Subject());
  return uploads.get(name);
}

const operations = {
  async start(request) {
    const connection = build(request.connection, request);
    connections.set(request.connection, connection);
    await connection.start();
    return connection.connectionId;
  },
  stop: ({ connection }) => connections.get(connection).stop(),
  async cut({ connection, url, stateful }) {
    elsewhere.set(connection, url);
    // Between two polls there is no socket that could be lost.
    do {
      for (const socket of sockets.get(connection).values()) socket.destroy();
      await new Promise(setImmediate);
    } while (!stateful && connections.get(connection).state === HubConnectionState.Connected);
  },
  invoke: ({ connection, target, args }) => connections.get(connection).invoke(target, ...args),
  send: ({ connection, target, args }) => connections.get(connection).send(target, ...args),
  stream({ connection, target, args, stream }) {
    const result = connections.get(connection).stream(target, ...args);
    const tell = (event, more) => write({ connection, stream, event, ...more });
    const subscription = result.subscribe({
      next: (item) => tell("item", { item }),
      complete: () => tell("complete"),
      error: (error) => tell("failed", { error: error.message }),
    });
    subscriptions.set(stream, subscription);
  },
  cancel: ({ stream }) => subscriptions.get(stream).dispose(),
  item: ({ upload, item }) => subject(upload).next(item),
  end({ upload, error }) {
    if (error === undefined) subject(upload).complete();
    else subject(upload).error(new Error(error));
  },
};

async function answer(request) {
  try {
    write({ id: request.id, result: await operations[request.op](request) });
  } catch (error) {
    write({ id: request.id, error: error.message });
  }
}

const lines = createInterface({ input: process.stdin });
// Not awaited: requests are taken up in order, and a call that takes long holds up no other.
lines.on("line", (line) => void answer(decode(JSON.parse(line))));
lines.on("close", () => process.exit(0));
