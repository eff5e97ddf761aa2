package inmail.clients;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.kafka.CloudEventDeserializer;
import io.cloudevents.kafka.CloudEventSerializer;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.function.Function;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Sends and reads as a service with each client would: {@code Clients CLIENT}, asked by JSON on standard input. */
public final class Clients {
    private static final ObjectMapper JSON = new ObjectMapper();

    private Clients() {}

    public static void main(String[] arguments) throws Exception {
        JsonNode asked = JSON.readTree(System.in);
        boolean sends = asked.get("do").asText().equals("send");
        boolean isSdk = arguments[0].equals("cloudevents");
        if (sends && isSdk) {
            send(asked, CloudEventSerializer.class, Clients::request);
        } else if (sends) {
            send(asked, StringSerializer.class, account -> asked.get("value").asText());
        } else if (isSdk) {
            System.out.println(JSON.writeValueAsString(read(asked, CloudEventDeserializer.class, CloudEvent::getId)));
        } else {
            System.out.println(JSON.writeValueAsString(read(asked, StringDeserializer.class, (String value) -> value)));
        }
    }

    /** Sends a record for each key; throws unless Kafka has confirmed them all. */
    private static <V> void send(JsonNode asked, Class<?> serializer, Function<String, V> value) throws Exception {
        Map<String, Object> settings = settings(asked);
        settings.put("key.serializer", StringSerializer.class);
        settings.put("value.serializer", serializer);
        try (var producer = new KafkaProducer<String, V>(settings)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (JsonNode each : asked.get("keys")) {
                String key = each.asText();
                sent.add(producer.send(new ProducerRecord<>(asked.get("topic").asText(), key, value.apply(key))));
            }
            for (Future<RecordMetadata> each : sent) {
                each.get();
            }
        }
    }

    /** Returns what the records up to the one that is asked for say. */
    private static <V> List<String> read(JsonNode asked, Class<?> deserializer, Function<V, String> text) {
        Map<String, Object> settings = settings(asked);
        settings.put("key.deserializer", StringDeserializer.class);
        settings.put("value.deserializer", deserializer);
        List<String> found = new ArrayList<>();
        try (var consumer = new KafkaConsumer<String, V>(settings)) {
            List<TopicPartition> partitions = List.of(new TopicPartition(asked.get("topic").asText(), 0));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (!found.contains(asked.get("until").asText())) {
                for (ConsumerRecord<String, V> record : consumer.poll(Duration.ofSeconds(1))) {
                    found.add(text.apply(record.value()));
                }
            }
        }
        return found;
    }

    private static Map<String, Object> settings(JsonNode asked) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", asked.get("servers").asText());
        asked.get("settings").fields().forEachRemaining(each -> settings.put(each.getKey(), each.getValue().asText()));
        return settings;
    }

    private static CloudEvent request(String account) {
        return CloudEventBuilder.v1()
                .withId("order-" + account)
                .withSource(URI.create("/shop"))
                .withType("inmail.send.requested.v1")
                .withSubject(account)
                .withData(
                        "application/json",
                        "{\"recipient_id\": \"bob\", \"relationship\": \"none\"}".getBytes(StandardCharsets.UTF_8))
                .build();
    }
}
