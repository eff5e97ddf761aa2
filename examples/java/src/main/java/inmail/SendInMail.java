package inmail;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import inmail.events.SendRequested;
import inmail.events.SendRequestedData;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Asks whether an InMail may be sent, and waits for the final answer: {@code SendInMail ACCOUNT RECIPIENT [ID]}.
 *
 * <p>Prints a JSON line for each answer, and before it sends, on standard error, the ID. Run it again with the same ID
 * after any failure: the request is decided once.
 */
public final class SendInMail {
    private static final String REQUESTS = "inmail.send-requests";
    private static final String RESULTS = "inmail.send-results";

    /** Longer than the ledger itself waits for another of its lanes (INMAIL_ORDER_SECONDS: 300). */
    private static final Duration ANSWER_TIMEOUT = Duration.ofSeconds(330);

    private static final String SERVERS = System.getenv().getOrDefault("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092");
    private static final ObjectMapper JSON = new ObjectMapper();

    private SendInMail() {}

    public static void main(String[] arguments) throws Exception {
        UUID id = arguments.length > 2 ? UUID.fromString(arguments[2]) : UUID.randomUUID();
        // The default partitioner is murmur2 of the key, as the ledger expects; so are acks=all and idempotence.
        Map<String, Object> toWrite = Map.of("bootstrap.servers", SERVERS);
        Map<String, Object> toRead = Map.of("bootstrap.servers", SERVERS, "isolation.level", "read_committed");
        try (var producer = new KafkaProducer<>(toWrite, new StringSerializer(), new ByteArraySerializer());
                var consumer = new KafkaConsumer<>(toRead, new StringDeserializer(), new ByteArrayDeserializer())) {
            // Where the answers begin has to be known before there can be one.
            List<TopicPartition> partitions = consumer.partitionsFor(RESULTS).stream()
                    .map(each -> new TopicPartition(RESULTS, each.partition()))
                    .toList();
            consumer.assign(partitions);
            consumer.endOffsets(partitions).forEach(consumer::seek);
            sendInMail(producer, consumer, arguments[0], arguments[1], id);
        }
    }

    /** Sends a request until its answer is final; prints each answer. */
    private static void sendInMail(
            KafkaProducer<String, byte[]> producer,
            KafkaConsumer<String, byte[]> consumer,
            String account,
            String recipient,
            UUID id)
            throws Exception {
        byte[] value = JSON.writeValueAsBytes(request(account, recipient, id));
        System.err.println("request " + id); // whoever sends it again needs it
        while (true) {
            var message = new ProducerRecord<>(REQUESTS, account, value);
            message.headers()
                    .add("content-type", "application/cloudevents+json; charset=UTF-8".getBytes(StandardCharsets.UTF_8));
            producer.send(message).get(); // fails after delivery.timeout.ms, 2 minutes by default
            ObjectNode answer = waitForAnswer(consumer, account, id);
            System.out.println(answer);
            if (!answer.get("code").asText().equals("balance_not_current")) {
                return;
            }
            // Not final, and nothing was charged: the same event again, with the same id, once the ledger has caught up.
            String given = System.getenv("RETRY_SECONDS");
            double seconds = given == null ? answer.get("retry_after_seconds").asDouble() : Double.parseDouble(given);
            Thread.sleep((long) (seconds * 1000));
        }
    }

    /** Returns the request as a CloudEvent in structured mode. */
    private static SendRequested request(String account, String recipient, UUID id) {
        return new SendRequested()
                .withSpecversion("1.0")
                .withId(id.toString())
                .withSource("/examples/java")
                .withType("inmail.send.requested.v1")
                .withSubject(account)
                .withTime(Instant.now().toString())
                .withDatacontenttype("application/json")
                .withData(new SendRequestedData()
                        .withRecipientId(recipient)
                        .withRelationship(SendRequestedData.Relationship.NONE));
    }

    /** Returns the data of the next answer to a request, which its account and its id name together. */
    private static ObjectNode waitForAnswer(KafkaConsumer<String, byte[]> consumer, String account, UUID id)
            throws IOException {
        Instant end = Instant.now().plus(ANSWER_TIMEOUT);
        while (Instant.now().isBefore(end)) {
            for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                var event = JSON.readTree(record.value());
                if (event.get("type").asText().equals("inmail.send.decided.v1")
                        && event.get("subject").asText().equals(account)
                        && event.get("data").get("request_id").asText().equals(id.toString())) {
                    return (ObjectNode) event.get("data");
                }
            }
        }
        throw new IOException("no answer: send " + id + " again, or look for it on inmail.dead-letters");
    }
}
