// sessa.v1 from the .proto files, through @grpc/proto-loader: nothing here is generated or shared with the C++ client.
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import path from 'node:path';

const protoDir = path.join(process.env.SESSA_SOURCE_DIR, 'proto');
const files = ['inference', 'sessions', 'admin'].map((name) => `sessa/v1/${name}.proto`);

const definition = protoLoader.loadSync([...files, 'grpc/health/v1/health.proto'], {
  includeDirs: [protoDir],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const packages = grpc.loadPackageDefinition(definition);

export function connect(address) {
  const credentials = grpc.credentials.createInsecure();
  return {
    inference: new packages.sessa.v1.Inference(address, credentials),
    sessions: new packages.sessa.v1.Sessions(address, credentials),
    admin: new packages.sessa.v1.Admin(address, credentials),
    health: new packages.grpc.health.v1.Health(address, credentials),
    close() {
      for (const client of [this.inference, this.sessions, this.admin, this.health]) client.close();
    },
  };
}

// A unary call as a promise.
export function unary(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// Runs Generate to its end. Resolves to {events, text, metadata} or rejects with the error (events attached).
// onEvent(event, call) may cancel.
export function generate(client, request, { options = {}, onEvent = () => {} } = {}) {
  const call = client.Generate(request, options);
  const result = { events: [], text: '', metadata: null };
  return new Promise((resolve, reject) => {
    call.on('metadata', (metadata) => (result.metadata = metadata));
    call.on('data', (event) => {
      result.events.push(event);
      if (event.event === 'delta') result.text += event.delta.text;
      onEvent(event, call);
    });
    call.on('error', (error) => reject(Object.assign(error, { result })));
    call.on('end', () => resolve(result));
  });
}

const root = new protobuf.Root();
root.resolvePath = (_, target) => (target.startsWith('google/protobuf/') ? target : path.join(protoDir, target));
root.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto']);

// The google.rpc details of an error, by message name: {ErrorInfo: {...}, BadRequest: {...}}.
export function errorDetails(error) {
  const details = {};
  for (const bytes of error.metadata.get('grpc-status-details-bin')) {
    const status = root.lookupType('google.rpc.Status').decode(bytes);
    for (const any of status.details) {
      const name = any.type_url.split('/').pop();
      details[name.split('.').pop()] = root.lookupType(name).decode(any.value).toJSON();
    }
  }
  return details;
}

export { grpc };
