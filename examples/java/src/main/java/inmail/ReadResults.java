package inmail;

import com.fasterxml.jackson.databind.ObjectMapper;
import inmail.events.SendDecided;
import inmail.events.SendDecidedData;
import java.io.IOException;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Acts on each answer to a send request once: {@code ReadResults [GROUP]}. Prints a JSON line for each; ends by SIGTERM.
 */
public final class ReadResults {
    private static final int REMEMBERED = 100_000;
    private static final ObjectMapper JSON = new ObjectMapper();

    /**
     * Ids of events that were acted on.
     *
     * <p>A service keeps them where it keeps what it does, as a unique column of the same transaction: memory forgets at
     * a restart, and the records since the last commit come again.
     */
    private static final Set<UUID> SEEN = Collections.newSetFromMap(new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<UUID, Boolean> eldest) {
            return size() > REMEMBERED;
        }
    });

    private ReadResults() {}

    public static void main(String[] arguments) throws IOException {
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", System.getenv().getOrDefault("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
                "group.id", arguments.length > 0 ? arguments[0] : "delivery-example",
                "auto.offset.reset", "earliest",
                "enable.auto.commit", false,
                // Between two commits: their work has to end within max.poll.interval.ms, 5 minutes by default.
                "max.poll.records", 100,
                // Not the default: without it, answers of aborted transactions are read too.
                "isolation.level", "read_committed");
        var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer());
        Thread reader = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                reader.join();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }));
        try (consumer) {
            consumer.subscribe(List.of("inmail.send-results"));
            while (true) {
                for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    read(record.value());
                }
                try {
                    consumer.commitSync(); // after the work: a crash repeats, and loses nothing
                } catch (CommitFailedException | RebalanceInProgressException error) {
                    // The group has given the partitions to others, or to us again: what was not committed is read
                    // again, and SEEN has what was done.
                }
            }
        } catch (WakeupException stop) {
            // SIGTERM: what was not committed is read again
        }
    }

    private static void read(byte[] value) throws IOException {
        var event = JSON.readTree(value);
        if (!event.get("type").asText().equals("inmail.send.decided.v1")) {
            return;
        }
        SendDecided decided = JSON.treeToValue(event, SendDecided.class);
        // The first answer again (`repeat`), or a record read twice, has the id of the first.
        if (!SEEN.contains(decided.getId())) {
            act(decided.getSubject(), decided.getData());
            SEEN.add(decided.getId()); // after the work: known before it, an answer whose work fails would be lost
        }
    }

    /** Does what an answer says. Members and codes that are not known are no error: {@code outcome} decides. */
    private static void act(String account, SendDecidedData data) throws IOException {
        String action = data.getOutcome() == SendDecidedData.Outcome.ACCEPTED ? "deliver" : "refuse";
        if (data.getCode().equals("balance_not_current")) {
            action = "wait"; // not final: whoever asked sends the request again, see SendInMail
        } else if (data.getCode().equals("key_conflict")) {
            // Another body under an id that has its answer, which stands: its message may have been delivered. Whoever
            // sent the other body has to be told.
            action = "ignore";
        }
        System.out.println(JSON.writeValueAsString(Map.of(
                "action", action, "account", account, "request_id", data.getRequestId(), "code", data.getCode())));
    }
}
