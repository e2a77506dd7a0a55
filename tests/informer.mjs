// An informer of the JavaScript client sees a ConfigMap come, change and go; prints what it saw.
import { createRequire } from 'node:module';

const k8s = createRequire(process.argv[3] + '/')('@kubernetes/client-node');
const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const api = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'default';
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  api.listNamespacedConfigMap({ namespace }));

const seen = (verb) =>
  new Promise((done) =>
    informer.on(verb, (object) => {
      if (object.metadata.name !== 'informer') return;
      console.log(verb, object.data.a);
      done();
    }));
const [added, updated, deleted] = ['add', 'update', 'delete'].map(seen);
informer.on('error', (error) => { console.error(error); process.exit(1); });
await informer.start();
const metadata = { name: 'informer' };
await api.createNamespacedConfigMap({ namespace, body: { metadata, data: { a: '1' } } });
await added;
await api.replaceNamespacedConfigMap({ namespace, name: 'informer', body: { metadata, data: { a: '2' } } });
await updated;
await api.deleteNamespacedConfigMap({ namespace, name: 'informer' });
await deleted;
process.exit(0);
